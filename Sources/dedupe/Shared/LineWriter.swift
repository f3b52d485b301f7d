// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer
import Synchronization

/// The sink: formats what the buffer delivers and writes it.
///
/// Each call of the buffer is written before it returns, so the pace of the reader becomes the pace
/// of the delivery, and what has not been taken yet goes on being conflated.
///
/// `@unchecked Sendable`: the buffer calls its sink serially, so the state is never used by two
/// threads at once.
final class LineWriter: SyncerCallbacks, @unchecked Sendable {
    typealias Key = LineKey
    typealias Value = LineValue

    /// How far the writing is. Any thread may look.
    final class Progress: Sendable {
        private let waiting = Atomic(0)
        private let writing = Atomic(0)

        /// Updates that the writer has, and has not begun to write.
        var updatesWaiting: Int { waiting.load(ordering: .relaxed) }
        /// Updates that are being written. The reader may have got a part of them.
        var updatesInWriting: Int { writing.load(ordering: .relaxed) }

        fileprivate func receive(_ count: Int) { waiting.add(count, ordering: .relaxed) }

        fileprivate func beginWriting(_ count: Int) {
            waiting.subtract(count, ordering: .relaxed)
            writing.add(count, ordering: .relaxed)
        }

        fileprivate func endWriting(_ count: Int) { writing.subtract(count, ordering: .relaxed) }
    }

    /// What is written of an update.
    enum Style {
        /// Objects with type, key, value and revision.
        ///
        /// - Parameter marks: Whether keys that JSON cannot have are marks, see ``OverflowMark``
        ///   and ``PassedLines``. Otherwise they are keys.
        case objects(EnvelopeFormat, marks: Bool)
        /// The line that the update came in.
        case lines(deletions: DeletionLines)

        /// Objects about what the parser made of JSON.
        static let envelopes = Style.objects(EnvelopeFormat(), marks: true)
        /// Objects about lines of text, which become strings.
        static let envelopesOfText = Style.objects(EnvelopeFormat(key: .anyText, value: .anyText), marks: true)
    }

    private let style: Style
    private let passedLines: PassedLines
    private let pacer: Pacer?
    private let progress: Progress
    private let write: (UnsafeRawBufferPointer) -> Void
    private var text = ByteText()
    /// Lines in front of the first one of the buffer that are not written yet.
    private var linesInFront = 0
    /// The updates in the text.
    private var updates = 0
    /// The lines of the deletions of the batch that is being written, by their numbers.
    private var deletionLines: [UInt64: Line] = [:]

    /// - Parameters:
    ///   - passedLines: The keys of lines that have none.
    ///   - pacer: What slows the writing down, if anything.
    ///   - progress: What tells other threads how far the writing is.
    ///   - beginsWithRestart: Whether `{"restart":true}` stands in front of everything.
    ///   - write: Writes all the bytes, or does not return.
    init(
        style: Style = .envelopes, passedLines: PassedLines = PassedLines(), pacer: Pacer? = nil,
        progress: Progress = Progress(), beginsWithRestart: Bool = false,
        write: @escaping @Sendable (UnsafeRawBufferPointer) -> Void
    ) {
        self.style = style
        self.passedLines = passedLines
        self.pacer = pacer
        self.progress = progress
        self.write = write
        if beginsWithRestart {
            text.append("{\"restart\":true}\n")
            linesInFront = 1
        }
    }

    func onStatusUpdated(_ status: SyncStatus) {
        pacer?.waitForTurn()
        text.append(status)
        flush()
        pacer?.rest(afterLines: 1 + takeLinesInFront())
    }

    func onUpdates(_ updates: [Update<LineKey, LineValue>]) {
        // All at once, before the first line is written, because writing may block forever.
        passedLines.release(updates)
        progress.receive(updates.count)
        if case .lines(let deletions) = style {
            deletionLines = deletions.take(updates)
        }
        guard let pacer else {
            writeLines(of: updates[...])
            return
        }
        var rest = updates[...]
        while !rest.isEmpty {
            let group = rest.prefix(pacer.linesAtOnce)
            rest = rest.dropFirst(group.count)
            pacer.waitForTurn()
            writeLines(of: group)
            pacer.rest(afterLines: group.count + takeLinesInFront(), isInBatch: !rest.isEmpty)
        }
    }

    private func writeLines(of updates: ArraySlice<Update<LineKey, LineValue>>) {
        for update in updates {
            append(update)
            self.updates += 1
            // Large values must not add up to all that there is in a batch.
            if text.count >= Self.enough {
                flush()
            }
        }
        flush()
    }

    private func append(_ update: Update<LineKey, LineValue>) {
        switch style {
        case .objects(let format, false): text.append(update, as: format)
        case .objects(let format, true): appendObject(update, as: format)
        case .lines:
            if let value = update.value {
                value.withBytes { text.append($0) }
            } else if let line = deletionLines[update.revision] {
                line.withValue { text.append($0) }
            } else {
                return
            }
            text.append("\n")
        }
    }

    private func appendObject(_ update: Update<LineKey, LineValue>, as format: EnvelopeFormat) {
        if OverflowMark.isMark(update) {
            text.append("{\"overflow\":true}\n")
        } else {
            text.append(update, as: format, hasKey: !PassedLines.isOne(update.key))
        }
    }

    private func flush() {
        progress.beginWriting(updates)
        if text.count > 0 {
            text.withBytes(write)
            text.removeAll()
        }
        progress.endWriting(updates)
        updates = 0
    }

    private func takeLinesInFront() -> Int {
        defer { linesInFront = 0 }
        return linesInFront
    }

    private static let enough = 1 << 20
}
