// SPDX-License-Identifier: Apache-2.0

// The model of the contract in C (Tests/CModel), with keys and values of Swift. It says what a
// batch must hold and judges what one did hold.
//
// The order among the deletions that one `inSync` owes is the library's to choose. The model
// follows the order in which they were delivered.

import CDedupe
import CModel
import DedupeBuffer

/// What the model knows of keys and updates: it has a number for each. Copies of a model share it.
///
/// `@unchecked`: a test keeps all copies of a model in one place, with a lock if it has threads.
private final class Book: @unchecked Sendable {
    let rules: Model.Rules
    private(set) var updates: [(value: Int?, revision: UInt64)] = []
    private(set) var keys: [String] = []
    private var numbers: [String: Int] = [:]

    init(rules: Model.Rules) { self.rules = rules }

    func number(of key: String) -> Int {
        if let number = numbers[key] { return number }
        numbers[key] = keys.count
        keys.append(key)
        return keys.count - 1
    }

    /// The id of an update.
    func add(_ value: Int?, revision: UInt64) -> UInt64 {
        updates.append((value, revision))
        return UInt64(updates.count)
    }

    /// The update with an id. Synthesized deletions have none.
    subscript(id: UInt64) -> (value: Int?, revision: UInt64) { id == 0 ? (nil, 0) : updates[Int(id) - 1] }

    static func of(_ context: UnsafeMutableRawPointer?) -> Book {
        Unmanaged<Book>.fromOpaque(context!).takeUnretainedValue()
    }
}

/// A `model_t`, which Swift counts references of.
///
/// `@unchecked`: see ``Book``.
private final class ModelStorage: @unchecked Sendable {
    var model = model_t()

    init() { model_open(&model) }
    deinit { model_close(&model) }

    func copy() -> ModelStorage {
        let copy = ModelStorage()
        model_copy(&copy.model, &model)
        return copy
    }
}

struct Model: Sendable {
    typealias Call = Event<String, Int>

    enum Operation: Sendable, CustomStringConvertible {
        case updates([Update<String, Int>])
        case status(SyncStatus)
        case restart
        case step

        var description: String {
            switch self {
            case .updates(let list):
                "updates(\(list.map { "\($0.key)=\($0.value.map(String.init) ?? "nil")" }.joined(separator: " ")))"
            case .status(let status): "\(status)"
            case .restart: "restart"
            case .step: "step"
            }
        }
    }

    /// What a buffer was made with.
    struct Rules: Sendable {
        var suppresses = false
        var maximumPendingKeys: Int?
        var maximumPendingBytes: Int?
        var weight: (@Sendable (Int) -> Int)?
        var merge: (@Sendable (Int, Int) -> Int)?
        /// Whether the callback of an overflow is the restart that it asks for.
        var restartsAtOverflow = false
    }

    struct Entry: Equatable {
        var key = ""
        var value: Int?
        var status: SyncStatus?
    }

    private var storage = ModelStorage()
    private let book: Book
    /// What the sink was given, as far as it did not come back.
    private(set) var sink: [String: Int] = [:]
    /// What the sink had of each key of the last batch, before the batch.
    private var before: [Int?] = []

    init(rules: Rules = .init()) {
        book = Book(rules: rules)
        storage.model.rules = Self.rules(of: book)
        model_claim(&storage.model, CDEDUPE_CLAIM_SINGLE_BATCH)
    }

    private static func rules(of book: Book) -> model_rules_t {
        var rules = model_rules_t()
        rules.context = Unmanaged.passUnretained(book).toOpaque()
        rules.maximum_keys = UInt64(book.rules.maximumPendingKeys ?? 0)
        rules.maximum_bytes = UInt64(book.rules.maximumPendingBytes ?? 0)
        rules.weight = { context, id, _ in
            let book = Book.of(context)
            return UInt64(book[id].value.flatMap { value in book.rules.weight.map { $0(value) } } ?? 0)
        }
        if book.rules.suppresses { rules.revision = { Book.of($0)[$1].revision } }
        if book.rules.merge != nil {
            rules.merged = { context, older, newer in
                let book = Book.of(context)
                let merged = book.rules.merge!(book[older].value!, book[newer].value!)
                return book.add(merged, revision: book[newer].revision)
            }
        }
        return rules
    }

    private mutating func change<Result>(_ body: (inout model_t) -> Result) -> Result {
        if !isKnownUniquelyReferenced(&storage) { storage = storage.copy() }
        return body(&storage.model)
    }

    var rules: Rules { book.rules }
    var peak: Int { Int(storage.model.statistics.peak_pending_keys) }
    var overflows: Int { Int(storage.model.statistics.overflows) }
    var delivered: Int { Int(storage.model.statistics.delivered) }
    var isOverflowed: Bool { storage.model.statistics.overflowed != 0 }

    var queue: [Entry] {
        UnsafeBufferPointer(start: storage.model.queue, count: storage.model.count).map { entry in
            if entry.key == noKey { return Entry(status: SyncStatus(entry.status)) }
            return Entry(key: book.keys[entry.key], value: book[entry.id].value)
        }
    }

    // MARK: - Calls

    mutating func update(_ update: Update<String, Int>) {
        let (key, id) = (book.number(of: update.key), book.add(update.value, revision: update.revision))
        var displaced: UInt64 = 0
        _ = change { model_put(&$0, key, update.value == nil, id, &displaced) }
    }

    mutating func status(_ status: SyncStatus) {
        _ = change { model_status(&$0, cdedupe_status_t(UInt32(status.rawValue))) }
    }

    mutating func restart() { _ = change { model_restart(&$0) } }

    /// Takes the first `count` entries: the calls that they make. `keys` are those of a batch that
    /// the buffer delivered (`nil`: a status); among deletions that one `inSync` owes, the model
    /// takes these first.
    @discardableResult
    mutating func take(_ count: Int, like keys: [String?] = []) -> [Call] {
        let hints = keys.map { $0.map(book.number) ?? noKey }
        var items = Array(repeating: model_item_t(), count: max(count, 1))
        var taken = 0
        _ = change { model_take(&$0, count, hints, hints.count, &items, &taken) }
        before = []
        return items.prefix(taken).reduce(into: []) { $0.append(sinkGets($1)) }.joined()
    }

    /// One item as a call.
    private mutating func sinkGets(_ item: model_item_t) -> Call {
        if item.kind == CDEDUPE_ITEM_STATUS {
            before.append(nil)
            return .status(SyncStatus(item.status))
        }
        let (key, update) = (book.keys[item.key], book[item.id])
        before.append(sink[key])
        sink[key] = update.value
        let type: UpdateType =
            item.kind == CDEDUPE_ITEM_DELETED ? .deleted : item.kind == CDEDUPE_ITEM_NEW ? .new : .updated
        return .updates([Item(key: key, value: update.value, revision: update.revision, type: type)])
    }

    /// Takes a batch of at most `limit` entries and compares it with `calls` (nil: the queue was
    /// empty). Returns what differs, or nil.
    mutating func step(limit: Int, delivered calls: [Call]?) -> String? {
        let keys = (calls ?? []).flatMap { call -> [String?] in
            if case .updates(let items) = call { items.map(\.key) } else { [nil] }
        }
        let due = take(limit, like: keys)
        guard let calls else { return due.isEmpty ? nil : "nothing delivered; due: \(due)" }
        if due.isEmpty { return "delivered \(calls); nothing was due" }
        return due == calls ? nil : "delivered \(calls); due \(due)"
    }

    /// The last `count` entries of the batch that was taken go back to the front.
    mutating func putBack(_ count: Int) {
        for _ in 0..<count {
            let item = storage.model.batch[storage.model.batch_count - 1]
            let had = before.removeLast()
            if item.kind != CDEDUPE_ITEM_STATUS { sink[book.keys[item.key]] = had }
            var back: UInt64 = 0
            _ = change { model_put_back_last(&$0, &back) }
        }
    }

    /// The entries of these keys in the batch that was taken go back, as if never taken; the others
    /// stay with the sink.
    mutating func putBack(keys: Set<String>) {
        let batch = (0..<storage.model.batch_count).map { (storage.model.batch[$0], before[$0]) }
        let isBack = { [book] (item: model_item_t) in
            item.kind != CDEDUPE_ITEM_STATUS && keys.contains(book.keys[item.key])
        }
        let sorted = batch.filter { !isBack($0.0) } + batch.filter { isBack($0.0) }
        change { for (i, taken) in sorted.enumerated() { $0.batch[i] = taken.0 } }
        before = sorted.map(\.1)
        putBack(batch.count { isBack($0.0) })
    }

    /// The sink goes without an update that it was given.
    mutating func abandon() {
        change {
            $0.statistics.delivered -= 1
            $0.statistics.dropped += 1
        }
    }

    // MARK: - The end of it all

    /// What the sink will have when all was delivered and the resync, if there is one, is over.
    struct Outcome: Equatable {
        var state: [String: Int]
        var status: SyncStatus
    }

    var outcome: Outcome {
        var outcome = Outcome(state: sink, status: SyncStatus(storage.model.latest_taken))
        for number in 0..<storage.model.key_count where storage.model.keys[number].unseen {
            outcome.state[book.keys[number]] = nil
        }
        for entry in queue {
            if let status = entry.status { outcome.status = status } else { outcome.state[entry.key] = entry.value }
        }
        return outcome
    }

    // MARK: - Judging

    /// What differs between the library's counts and the model's, or nil.
    func difference(from statistics: DedupeBufferStatistics) -> String? {
        statistics.difference(from: storage.model.statistics)
    }
}

/// `MODEL_NO_KEY`, a macro that Swift does not see.
let noKey = -1

extension SyncStatus {
    init(_ status: cdedupe_status_t) { self.init(rawValue: UInt8(status.rawValue))! }
}

extension [Event<String, Int>] {
    /// With the updates of neighbours in one call.
    func joined() -> Self {
        reduce(into: []) { joined, event in
            if case .updates(let items) = event, case .updates(let before)? = joined.last {
                joined[joined.count - 1] = .updates(before + items)
            } else {
                joined.append(event)
            }
        }
    }
}

extension DedupeBufferStatistics {
    /// What differs between the library's counts and the model's, or nil.
    func difference(from model: cdedupe_statistics_t) -> String? {
        let pairs: [(String, Int, UInt64)] = [
            ("pendingKeys", pendingKeys, model.pending_keys),
            ("pendingStatuses", pendingStatuses, model.pending_statuses),
            ("liveKeys", liveKeys, model.live_keys),
            ("received", received, model.received),
            ("delivered", delivered, model.delivered),
            ("replaced", replaced, model.replaced),
            ("cancelled", cancelled, model.cancelled),
            ("suppressed", suppressed, model.suppressed),
            ("dropped", dropped, model.dropped),
            ("overflows", overflows, model.overflows),
            ("isOverflowed", isOverflowed ? 1 : 0, model.overflowed),
            ("pendingBytes", pendingBytes, model.pending_bytes),
            ("rejected", rejected, 0),
            ("synthesizedDeletions", synthesizedDeletions, model.synthesized_deletions),
            ("statusesReceived", statusesReceived, model.statuses_received),
            ("statusesDelivered", statusesDelivered, model.statuses_delivered),
            ("batches", batches, model.batches),
            ("peakPendingKeys", peakPendingKeys, model.peak_pending_keys),
        ]
        let wrong = pairs.filter { $0.1 != Int($0.2) }
        if !wrong.isEmpty {
            return wrong.map { "\($0.0) is \($0.1), must be \($0.2)" }.joined(separator: "; ")
        }
        if pendingStatuses > pendingKeys + 1 { return "more statuses than pending keys and one" }
        return nil
    }
}
