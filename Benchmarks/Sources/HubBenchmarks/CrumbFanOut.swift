// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import HashTreeCollections

/// The breadcrumb way: a chain of persistent snapshots, each with the updates that led to it, at
/// most 100. A subscriber begins with a snapshot, and then walks the chain.
///
/// A subscriber that stalls keeps the chain from its crumb on alive.
final class CrumbFanOut: FanOut {
    static let name = "crumbs"

    final class Crumb {
        let snapshot: TreeDictionary<String, Payload>
        let updates: [BenchmarkUpdate]
        var next: Crumb?

        init(_ snapshot: TreeDictionary<String, Payload>, _ updates: [BenchmarkUpdate]) {
            (self.snapshot, self.updates) = (snapshot, updates)
        }

        /// Not recursive: chains are long.
        deinit {
            var crumb = next
            next = nil
            while crumb != nil && isKnownUniquelyReferenced(&crumb) {
                let after = crumb!.next
                crumb!.next = nil
                crumb = after
            }
        }
    }

    private enum Place {
        case new(Crumb)
        case following(Crumb)
    }

    private var latest = Crumb([:], [])
    private var state: TreeDictionary<String, Payload> = [:]
    private var places: [Place] = []
    private let sink = CountingSink()

    func put(_ updates: [BenchmarkUpdate]) {
        for start in stride(from: 0, to: updates.count, by: 100) {
            var typed = Array(updates[start..<min(start + 100, updates.count)])
            for i in typed.indices {
                let isNew = state[typed[i].key] == nil
                state[typed[i].key] = typed[i].value
                typed[i].updateType = typed[i].value == nil ? .deleted : isNew ? .new : .updated
            }
            let crumb = Crumb(state, typed)
            latest.next = crumb
            latest = crumb
        }
    }

    func addSubscriber() { places.append(.new(latest)) }

    func drain(_ subscriber: Int) -> Int {
        var count = 0
        while true {
            let taken = step(subscriber)
            if taken == 0 { return count }
            count += taken
        }
    }

    func step(_ subscriber: Int) -> Int {
        switch places[subscriber] {
        case .new(let crumb):
            places[subscriber] = .following(crumb)
            var chunk: [BenchmarkUpdate] = []
            for (key, value) in crumb.snapshot {
                chunk.append(Update(key: key, value: value, updateType: .new))
                if chunk.count < 100 { continue }
                sink.onUpdates(chunk)
                chunk.removeAll(keepingCapacity: true)
            }
            if !chunk.isEmpty { sink.onUpdates(chunk) }
            return crumb.snapshot.count
        case .following(let crumb):
            guard let next = crumb.next else { return 0 }
            places[subscriber] = .following(next)
            sink.onUpdates(next.updates)
            return next.updates.count
        }
    }

    var subscriberCount: Int { places.count }
}
