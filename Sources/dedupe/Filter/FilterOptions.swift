// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

/// What the input looks like.
struct InputOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            """
            Where the key is in each JSON value, as a JSON pointer such as /metadata/name. Repeat it for a key of \
            several parts. The key may be any JSON except null. Without --envelope the lines pass through as they are.
            """, valueName: "pointer"))
    var key: [String] = []

    @Option(help: ArgumentHelp("With --envelope: where the value is. The default is the line.", valueName: "pointer"))
    var value: String?

    @Option(
        help: ArgumentHelp(
            """
            A condition for deletions, such as '/op="d"' or /value=null. Without =JSON it holds if the pointer leads \
            to something other than null and false. Repeat it for several; one is enough.
            """, valueName: "pointer[=json]"))
    var deleteWhen: [String] = []

    @Option(
        help: ArgumentHelp(
            """
            Where the revision is, a number or a string of digits. It tells old updates from new ones, for \
            --suppress-unchanged and --newer-only.
            """, valueName: "pointer"))
    var revision: String?

    @Option(
        name: [.customShort("t", allowingJoined: true), .customLong("delimiter")],
        help: ArgumentHelp(
            """
            The input is text whose fields are separated by this character, a tab by default. There is no quoting; \
            convert quoted CSV first, for example with mlr --icsv --otsv.
            """, valueName: "char"))
    var delimiter: String?

    @Option(
        name: [.customShort("k", allowingJoined: true), .customLong("field")],
        help: ArgumentHelp(
            "The number of the field that is the key, from 1. Repeat it for a key of several fields.", valueName: "n"))
    var field: [UInt32] = []

    @Flag(help: "The first line of text is no data; it is passed on first.")
    var header = false

    @Option(
        help: ArgumentHelp(
            """
            A known format: kubectl (get -w -o json, also with --output-watch-events), debezium (change events), or \
            kcat (-J).
            """, valueName: "format"))
    var from: InputFormat.Preset?

    @Option(
        help: ArgumentHelp(
            "With --from debezium: a column of the key, \"id\" by default. Repeat it for several.", valueName: "name"))
    var keyField: [String] = []

    /// The format that the options say.
    func format(hasEnvelope: Bool) throws -> InputFormat {
        let ways = [!key.isEmpty, !field.isEmpty, from != nil].filter { $0 }.count
        if ways > 1 {
            throw ValidationError("--key, -k and --from exclude each other.")
        }
        try checkCombinations(hasEnvelope: hasEnvelope)
        var format = try shape()
        if let value {
            format.value = [value]
        } else if !hasEnvelope && format.shape != .events {
            format.value = []
        }
        format.revision = revision.map { [$0] } ?? format.revision
        format.deletions += deleteWhen
        try check(format)
        return format
    }

    private func checkCombinations(hasEnvelope: Bool) throws {
        if from != .debezium && !keyField.isEmpty {
            throw ValidationError("--key-field needs --from debezium.")
        }
        if field.isEmpty && (delimiter != nil || header) {
            throw ValidationError("-t and --header need -k.")
        }
        let hasPlace = value != nil || revision != nil || !deleteWhen.isEmpty
        if key.isEmpty && from == nil && hasPlace {
            throw ValidationError("--value, --revision and --delete-when need --key or --from.")
        }
        if value != nil && !hasEnvelope {
            throw ValidationError("--value needs --envelope. Without it the line is written as it came.")
        }
        if hasEnvelope && key.isEmpty && field.isEmpty && from == nil {
            throw ValidationError("--envelope needs --key, -k or --from. Without them it is always written.")
        }
    }

    private func shape() throws -> InputFormat {
        if let from {
            return InputFormat(preset: from, keyFields: keyField)
        }
        var format = InputFormat()
        if !key.isEmpty {
            format.shape = .json
            format.key = key.map { InputFormat.KeyPart(pointers: [$0]) }
        } else if !field.isEmpty {
            if field.contains(0) {
                throw ValidationError("Fields are counted from 1.")
            }
            format.shape = .text(delimiter: try delimiterByte(), fields: field, hasHeader: header)
        }
        return format
    }

    private func delimiterByte() throws -> UInt8 {
        let bytes = Array((delimiter ?? "\t").utf8)
        if bytes == Array("\\t".utf8) {
            return UInt8(ascii: "\t")
        }
        guard bytes.count == 1, bytes[0] != UInt8(ascii: "\n") else {
            throw ValidationError("-t takes one character of one byte, or \\t.")
        }
        return bytes[0]
    }

    private func check(_ format: InputFormat) throws {
        do throws(InputFormat.Problem) {
            _ = try LineReader(format: format, descriptor: -1)
        } catch {
            switch error {
            case .noPointer(let text):
                throw ValidationError("\(text) is no JSON pointer. One begins with a slash, as /metadata/name does.")
            case .noJSON(let text):
                throw ValidationError(
                    "\(text): behind = there is no JSON. Strings need their double quotes, as in '/op=\"d\"'.")
            }
        }
    }
}

extension InputFormat.Preset: ExpressibleByArgument {}

/// What is passed on, and how.
struct RuleOptions: ParsableArguments {
    @Flag(help: "Write an object with type, key, value and revision instead of the line.")
    var envelope = false

    @Option(
        help: ArgumentHelp(
            """
            What becomes of a line without a key: error (the default) reports it, skip leaves it out, pass writes it \
            in its place among the others.
            """, valueName: "rule"))
    var onMissing = MissingKeyRule.error

    @Flag(help: "Leave out a value whose revision is the one that the reader was given last for its key.")
    var suppressUnchanged = false

    @Flag(
        help: """
            Ignore an update whose revision is smaller than one that its key has had. This remembers each key, deleted \
            ones included, until a restart.
            """)
    var newerOnly = false
}

/// How fast, in which portions, and what is said about it.
struct RunOptions: ParsableArguments {
    @OptionGroup var pace: PaceOptions

    @Option(
        help: ArgumentHelp(
            "The most keys that may be pending. One more is an overflow.", valueName: "count"))
    var maxKeys: Int?

    @Option(
        help: ArgumentHelp(
            """
            The most bytes that pending values may have together. An update that adds a pending key and exceeds them is \
            an overflow. A larger value of a pending key is none.
            """, valueName: "count"))
    var maxBytes: Int?

    @Option(
        help: ArgumentHelp(
            """
            What follows an overflow, which drops everything that is pending: stop (the default) reads no more and \
            exits with status 3, drop goes on with later lines.
            """, valueName: "rule"))
    var onOverflow: OverflowRule?

    @Option(
        help: ArgumentHelp(
            """
            Commit at most this many lines at a time: what is committed is no longer replaced. --max-rate lowers it to \
            a tenth of the rate.
            """,
            valueName: "lines"))
    var batchSize = 100

    @Option(
        help: ArgumentHelp(
            "Stop at this many bad lines, after writing what came before. Otherwise bad lines are left out.",
            valueName: "count"))
    var maxErrors: Int?

    @Flag(help: "Stop at the first bad line, as --max-errors 1 does.")
    var strict = false

    @OptionGroup var end: EndOptions

    static let batchSizes = 1...65_536

    /// Whether there can be an overflow.
    var isBounded: Bool { maxKeys != nil || maxBytes != nil }

    func validate() throws {
        if !Self.batchSizes.contains(batchSize) {
            throw ValidationError("--batch-size must be from 1 to \(Self.batchSizes.upperBound).")
        }
        for (name, number) in [("--max-errors", maxErrors), ("--max-keys", maxKeys), ("--max-bytes", maxBytes)] {
            if let number, number < 1 {
                throw ValidationError("\(name) must be a positive integer.")
            }
        }
        if onOverflow != nil && !isBounded {
            throw ValidationError("--on-overflow needs --max-keys or --max-bytes.")
        }
        if strict && maxErrors ?? 1 != 1 {
            throw ValidationError("--strict stops at the first bad line, and --max-errors at a later one.")
        }
    }
}
