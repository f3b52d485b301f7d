// SPDX-License-Identifier: Apache-2.0

#if Server

internal import DedupeBufferHub

#if canImport(FoundationEssentials)
internal import FoundationEssentials
#else
internal import Foundation
#endif

/// What came in before the hub, as the program that feeds it says.
public struct InputReport: Sendable, Encodable {
    /// Lines, or changes.
    public var lines = 0
    public var updates = 0
    /// Lines that could not be read.
    public var bad = 0
    /// Whether nothing more comes in.
    public var hasEnded = false

    public init() {}
}

/// What `GET /statistics` answers.
struct StatisticsBody: Encodable {
    struct Hub: Encodable {
        var revision: UInt64
        var keys: Int
        var deletedKeys: Int
        var received: Int
        var delivered: Int
        var subscriptions: Int
        var resumed: Int
        var restarts: Int
        var scans: Int
        var memory: Int
        var clientMemory: Int

        init(_ statistics: DedupeHubStatistics) {
            revision = statistics.revision
            keys = statistics.keys
            deletedKeys = statistics.deletedKeys
            received = statistics.received
            delivered = statistics.delivered
            subscriptions = statistics.subscriptions
            resumed = statistics.resumed
            restarts = statistics.restarts
            scans = statistics.scans
            memory = statistics.memory
            clientMemory = statistics.subscriberMemory
        }
    }

    struct Lag: Encodable {
        var median: Int
        var percentile99: Int
        var maximum: Int
    }

    struct ClientsPart: Encodable {
        var now: Int
        var waiting: Int
        var admitted: Int
        var refused: Int
        var maximum: Int
        var connections: Int
        var bytes: Int
        var pending: Int
        /// How many changes clients are behind.
        var lag: Lag
        /// Those that are furthest behind, at most 100.
        var list: [Client]
    }

    struct Client: Encodable {
        var number: Int
        var address: String
        var path: String
        var version: String
        var prefixes: [String]
        var interval: Int64?
        var seconds: Double
        var lag: Int
        var pending: Int
        var delivered: Int
        var bytes: Int

        init(_ client: StreamClient, now: ContinuousClock.Instant) {
            let (description, figures) = (client.description, client.statistics)
            number = description.number
            address = description.address
            path = description.format == .events ? "/events" : "/lines"
            version = description.version
            prefixes = description.request.prefixes.map { String(decoding: $0, as: UTF8.self) }
            interval = description.request.interval?.milliseconds
            seconds = (now - description.begin).inSeconds
            lag = figures?.lag ?? 0
            pending = figures?.pending ?? 0
            delivered = client.updates.load(ordering: .relaxed)
            bytes = client.bytes.load(ordering: .relaxed)
        }
    }

    struct HistoryPart: Encodable {
        /// What to give as `history=` to get only later rows.
        var next: Int
        var rows: [History.Row]
    }

    var version: String
    var seconds: Double
    var input: InputReport
    var hub: Hub
    var clients: ClientsPart
    var history: HistoryPart

    static let mostClients = 100

    var json: String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        // This cannot fail: there are no numbers that JSON lacks.
        return String(decoding: try! encoder.encode(self), as: UTF8.self) + "\n"
    }
}

extension Duration {
    var inSeconds: Double {
        // To the millisecond.
        Double(milliseconds) / 1000
    }
}

#endif
