// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer
import DedupeBufferEtcd
import Logging

/// Says what became of the connection. The first connection is no news.
///
/// Each cause of a failure is told once, until the cluster is reached again. A cause that comes up
/// after the first message is told, too: after the first cause is removed, the next one matters.
final class EtcdMessages: Sendable {
    private struct State {
        /// Why each endpoint failed last, since the last connection.
        var failures: [(endpoint: String, cause: EtcdCause)] = []
        /// The kinds of the causes that were told since the last connection.
        var told: Set<String> = []
        var hasSnapshot = false

        mutating func note(_ endpoint: String, _ cause: EtcdCause) {
            failures.removeAll { $0.endpoint == endpoint }
            failures.append((endpoint, cause))
        }

        /// The causes that were not told yet, as one text; nil if there are none.
        mutating func takeNews() -> String? {
            let news = failures.filter { !told.contains($0.cause.kind) }
            guard !news.isEmpty, told.count < EtcdMessages.mostCauses else { return nil }
            told.formUnion(news.map(\.cause.kind))
            return news.map { "\($0.endpoint): \($0.cause.text)" }.joined(separator: "; ")
        }
    }

    private let state = Locked(State())
    private let report: @Sendable (String) -> Void
    private let denied: @Sendable () -> Void

    /// How many causes are told. A text that is never the same twice must not fill a disk.
    private static let mostCauses = 20

    /// - Parameters:
    ///   - report: Where messages go.
    ///   - denied: Called when the cluster refuses the user.
    init(report: @escaping @Sendable (String) -> Void, denied: @escaping @Sendable () -> Void = {}) {
        self.report = report
        self.denied = denied
    }

    /// An attempt failed. The state that this leads to is told afterwards.
    func attemptFailed(endpoint: String, error: String) {
        let news = state.withLock { state in
            state.note(endpoint, EtcdCause(error))
            return state.told.isEmpty ? nil : state.takeNews()
        }
        if let news {
            report("the cluster still fails: \(news)")
        }
    }

    func stateChanged(_ new: EtcdSyncerState) {
        let message = state.withLock { state in Self.message(for: new, &state) }
        if let message {
            report(message)
        }
        if case .denied = new {
            denied()
        }
    }

    private static func message(for new: EtcdSyncerState, _ state: inout State) -> String? {
        switch new {
        case .unreachable: return state.takeNews().map { "the cluster cannot be reached, and is tried again: \($0)" }
        case .denied: return state.takeNews().map { "the cluster refuses the user, and is tried again: \($0)" }
        case .connected(let endpoint):
            defer { (state.failures, state.told) = ([], []) }
            return state.told.isEmpty ? nil : "connected to \(endpoint)"
        case .resyncing(let reason):
            guard state.hasSnapshot, reason != .audit else { return nil }
            return "everything is read again: \(phrase(for: reason))"
        case .inSync:
            state.hasSnapshot = true
            return nil
        }
    }

    private static func phrase(for reason: EtcdResyncReason) -> String {
        switch reason {
        case .compacted: "etcd no longer has what was missed"
        case .otherCluster: "another cluster answers"
        case .revisionsWentBack: "the revisions went back, as after a restore"
        default: reason.description
        }
    }
}

/// Tells the messages of the attempts that fail. The syncer's state has no endpoint, and does not
/// change when another cause follows the first; its log has both.
struct AttemptLog: LogHandler {
    let messages: EtcdMessages
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.debug

    init(_ messages: EtcdMessages) {
        self.messages = messages
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        if event.level == .debug, let endpoint = event.metadata?["syncer.endpoint"],
            let error = event.metadata?["syncer.error"]
        {
            messages.attemptFailed(endpoint: "\(endpoint)", error: "\(error)")
        }
    }
}

/// Why an attempt failed, in words for people.
struct EtcdCause: Equatable {
    let text: String
    /// Equal for causes that come and go with each restart of a member.
    let kind: String

    /// What is wrong when the text of an error has a certain part. The first that fits counts.
    private static let phrases: [(part: String, phrase: String)] = [
        ("Couldn't resolve address", "the name of the host is not known"),
        ("failedToLoadPrivateKey", "the key does not belong to the certificate, or cannot be used"),
        ("failedToLoadCertificate", "a file of certificates cannot be used"),
        ("Couldn't create SSL context", "the files of certificates and keys cannot be used"),
        ("CERTIFICATE_VERIFY_FAILED", "the member's certificate is not trusted; --ca names its authority"),
        ("failedToValidateHostname", "the member's certificate is for another name"),
        ("ALERT_BAD_CERTIFICATE", "the member refuses the certificate of --cert, or wants one"),
        ("ALERT_CERTIFICATE_REQUIRED", "the member wants a certificate; see --cert"),
        ("handshake", "the encryption cannot begin; does the member serve http:?"),
        ("connection preface", "the member does not speak etcd's protocol; does it serve https:?"),
    ]

    /// - Parameter error: What the syncer says of a failure: a name, and a text for developers.
    init(_ error: String) {
        if let known = Self.phrases.first(where: { error.contains($0.part) }) {
            (text, kind) = (known.phrase, known.phrase)
            return
        }
        let name = error.prefix { $0.isLetter }
        let rest = error.hasPrefix("\(name): ") ? String(error.dropFirst(name.count + 2)) : error
        text = error.contains("Connection refused") ? "the connection was refused" : rest
        kind = ["permissionDenied", "unauthenticated"].contains(name) ? rest : "gone"
    }
}

#endif
