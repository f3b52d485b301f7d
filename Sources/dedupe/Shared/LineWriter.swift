// SPDX-License-Identifier: Apache-2.0

import DedupeBuffer

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

    /// What is written of an update.
    enum Style {
        /// Objects with type, key, value and revision.
        case objects(EnvelopeFormat)
        /// The line that the update came in.
        case lines(deletions: DeletionLines)

        /// Objects about what the parser made of JSON.
        static let envelopes = Style.objects(EnvelopeFormat())
        /// Objects about lines of text, which become strings.
        static let envelopesOfText = Style.objects(EnvelopeFormat(key: .anyText, value: .anyText))
    }

    private let style: Style
    private let passedLines: PassedLines
    private let pacer: Pacer?
    private let write: (UnsafeRawBufferPointer) -> Void
    private var text = ByteText()
    /// The lines of the deletions of the batch that is being written, by their numbers.
    private var deletionLines: [UInt64: Line] = [:]

    /// - Parameters:
    ///   - passedLines: The keys of lines that have none.
    ///   - pacer: What slows the writing down, if anything.
    ///   - write: Writes all the bytes, or does not return.
    init(
        style: Style = .envelopes, passedLines: PassedLines = PassedLines(), pacer: Pacer? = nil,
        write: @escaping @Sendable (UnsafeRawBufferPointer) -> Void
    ) {
        self.style = style
        self.passedLines = passedLines
        self.pacer = pacer
        self.write = write
    }

    func onStatusUpdated(_ status: SyncStatus) {
        pacer?.waitForTurn()
        text.append(status)
        flush()
        pacer?.rest(afterLines: 1)
    }

    func onUpdates(_ updates: [Update<LineKey, LineValue>]) {
        // All at once, before the first line is written, because writing may block forever.
        passedLines.release(updates)
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
            pacer.rest(afterLines: group.count, isInBatch: !rest.isEmpty)
        }
    }

    private func writeLines(of updates: ArraySlice<Update<LineKey, LineValue>>) {
        for update in updates {
            append(update)
            // Large values must not add up to all that there is in a batch.
            if text.count >= Self.enough {
                flush()
            }
        }
        flush()
    }

    private func append(_ update: Update<LineKey, LineValue>) {
        switch style {
        case .objects(let format): appendObject(update, as: format)
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
        if text.count == 0 {
            return
        }
        text.withBytes(write)
        text.removeAll()
    }

    private static let enough = 1 << 20
}
