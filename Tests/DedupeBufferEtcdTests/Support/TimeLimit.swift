// SPDX-License-Identifier: Apache-2.0

#if Etcd

@testable import DedupeBufferEtcd

extension EtcdTransportOptions {
    /// Limits that no machine is too busy for, for tests that do not wait for a limit to be
    /// reached.
    static let patient: EtcdTransportOptions = {
        var options = EtcdTransportOptions()
        options.requestTimeout = .seconds(120)
        options.pageTimeout = .seconds(120)
        options.keepaliveInterval = .seconds(120)
        options.keepaliveTimeout = .seconds(100)
        return options
    }()
}

/// The configuration with short pauses, and limits that no machine is too busy for.
func patient(_ configuration: EtcdConfiguration) -> EtcdConfiguration {
    var configuration = configuration
    configuration.requestTimeout = .seconds(120)
    configuration.pageTimeout = .seconds(120)
    configuration.keepaliveInterval = .seconds(120)
    configuration.keepaliveTimeout = .seconds(100)
    configuration.heartbeatInterval = .seconds(120)
    configuration.heartbeatTimeout = .seconds(120)
    configuration.backOff.maximumDelay = .milliseconds(500)
    configuration.minimumResyncInterval = .milliseconds(50)
    return configuration
}

/// Something that a test waited for did not come.
struct TimeLimitExceeded: Error, CustomStringConvertible {
    let description: String
}

/// Runs the body, or fails with the name of what was waited for.
func within<Result: Sendable>(
    _ what: String, limit: Duration = .seconds(300), isolation: isolated (any Actor)? = #isolation,
    _ body: @escaping @Sendable () async throws -> Result
) async throws -> Result {
    try await withThrowingTaskGroup(of: Result?.self) { group in
        group.addTask { try await body() }
        group.addTask {
            try await Task.sleep(for: limit)
            return nil
        }
        defer { group.cancelAll() }
        guard let result = try await group.next()! else {
            throw TimeLimitExceeded(description: "\(what): not within \(limit)")
        }
        return result
    }
}

#endif
