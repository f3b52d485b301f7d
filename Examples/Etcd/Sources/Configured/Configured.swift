// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import DedupeBufferEtcd
import DedupeBufferService
import Logging
import ServiceLifecycle

// A service whose configuration is in etcd: the keys under /config/ are a dictionary that is always
// up to date. Try it:
//
//     etcd &
//     swift run --package-path Examples/Etcd &
//     ETCDCTL_API=3 etcdctl put /config/greeting hello

/// The configuration as the rest of the program sees it.
actor Settings: AsyncSyncerCallbacks {
    private var values: [String: String] = [:]
    /// Whether the dictionary has everything that etcd has.
    private(set) var isComplete = false

    subscript(key: String) -> String? { values[key] }

    func onStatusUpdated(_ status: SyncStatus) async throws {
        isComplete = status == .inSync
        print(status, "with", values.count, "settings")
    }

    func onUpdates(_ updates: [Update<String, String>]) async throws {
        for update in updates {
            values[update.key] = update.value
            print(update.updateType, update.key, update.value ?? "")
        }
    }
}

@main
struct Configured {
    static func main() async throws {
        let prefix = "/config/"
        let logger = Logger(label: "configured")
        let settings = Settings()

        // When everything is read again, the settings get only what has changed.
        var options = DedupeBufferConfiguration()
        options.skipsUnchangedRevisions = true
        let buffer = DedupeBuffer<String, String>(configuration: options)

        let endpoints = CommandLine.arguments.dropFirst()
        var configuration = EtcdConfiguration(
            endpoints: try (endpoints.isEmpty ? ["http://127.0.0.1:2379"] : endpoints).map { try .init($0) },
            prefix: prefix)
        configuration.logger = logger
        try configuration.validate()
        let syncer = EtcdSyncer(configuration: configuration, target: buffer) { key, bytes in
            guard let value = String(validating: bytes, as: UTF8.self) else { throw NotText(key: key) }
            return value
        }

        // The source is the last, so that it ends first, and what it brought is delivered.
        let delivery = DedupeBufferService(buffer: buffer, sink: settings)
        let group = ServiceGroup(
            services: [delivery, syncer], gracefulShutdownSignals: [.sigterm, .sigint], logger: logger)
        try await group.run()
    }
}

/// A value is not text. The setting keeps the value that it had.
struct NotText: Error {
    let key: String
}
