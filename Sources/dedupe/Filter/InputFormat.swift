// SPDX-License-Identifier: Apache-2.0

import CEventParser

/// What the input looks like, and where in a value or in a line the key and the rest are.
struct InputFormat: Equatable {
    /// A part of the key: what the first of these pointers that leads somewhere leads to.
    struct KeyPart: Equatable {
        var pointers: [String]
        /// Whether null stands for a part that is missing.
        var isOptional = false
    }

    enum Shape: Equatable {
        /// The filter's own format.
        case events
        /// Any JSON values.
        case json
        /// Lines of fields. The numbers count from 1.
        case text(delimiter: UInt8, fields: [UInt32], hasHeader: Bool)
    }

    var shape = Shape.events
    var key: [KeyPart] = []
    /// Where the value is; nowhere: the whole line is the value.
    var value: [String] = []
    var revision: [String] = []
    /// Conditions for deletions: `POINTER` or `POINTER=JSON`.
    var deletions: [String] = []

    /// Why there is no parser for a format.
    enum Problem: Error, Equatable {
        case noPointer(String)
        case noJSON(String)
    }

    /// Makes a parser, which the caller destroys.
    func makeParser(maximumLength: Int) throws(Problem) -> OpaquePointer {
        let format: cevent_format =
            switch shape {
            case .events: .CEVENT_FORMAT_EVENTS
            case .json: .CEVENT_FORMAT_JSON
            case .text: .CEVENT_FORMAT_TEXT
            }
        guard let parser = cevent_parser_create(format, maximumLength) else { fatalError("out of memory") }
        do throws(Problem) {
            try setPlaces(of: parser)
        } catch {
            cevent_parser_destroy(parser)
            throw error
        }
        return parser
    }

    private func setPlaces(of parser: OpaquePointer) throws(Problem) {
        if case .text(let delimiter, let fields, let hasHeader) = shape {
            _ = cevent_parser_set_fields(parser, delimiter, fields, fields.count, hasHeader)
            return
        }
        for part in key {
            try Self.set(part.pointers) { cevent_parser_add_key(parser, $0, $1, part.isOptional) }
        }
        if !value.isEmpty {
            try Self.set(value) { cevent_parser_set_value(parser, $0, $1) }
        }
        if !revision.isEmpty {
            try Self.set(revision) { cevent_parser_set_revision(parser, $0, $1) }
        }
        for condition in deletions {
            try Self.check(cevent_parser_add_deletion(parser, condition), condition)
        }
    }

    private typealias Pointers = UnsafePointer<UnsafePointer<CChar>>

    private static func set(_ pointers: [String], _ body: (Pointers, Int) -> cevent_place) throws(Problem) {
        let copies = pointers.map { UnsafePointer(strdup($0)!) }
        defer {
            for copy in copies {
                free(UnsafeMutablePointer(mutating: copy))
            }
        }
        let place = copies.withUnsafeBufferPointer { body($0.baseAddress!, $0.count) }
        try check(place, pointers.joined(separator: " "))
    }

    private static func check(_ place: cevent_place, _ text: String) throws(Problem) {
        switch place {
        case .CEVENT_PLACE_OK: return
        case .CEVENT_PLACE_NO_POINTER: throw .noPointer(text)
        case .CEVENT_PLACE_NO_JSON: throw .noJSON(text)
        case .CEVENT_PLACE_NO_MEMORY: fatalError("out of memory")
        }
    }

    /// What a line lacks, in words.
    func missing(part: Int) -> String {
        if case .text(_, let fields, _) = shape {
            return "there is no field \(fields[part])"
        }
        return "there is no key at \(key[part].pointers.joined(separator: " or "))"
    }
}

// MARK: - Presets

extension InputFormat {
    /// Formats that have names. The manual has a table of what each stands for.
    enum Preset: String, CaseIterable {
        case kubectl
        case debezium
        case kcat
    }

    /// - Parameter keyFields: The columns that are the key, where the format leaves them open.
    init(preset: Preset, keyFields: [String]) {
        shape = .json
        switch preset {
        case .kubectl: setKubectl()
        case .debezium: setDebezium(keyFields: keyFields.isEmpty ? ["id"] : keyFields)
        case .kcat: setKcat()
        }
    }

    /// Objects as they are, or in watch events.
    private mutating func setKubectl() {
        func places(_ pointer: String) -> [String] { ["/object" + pointer, pointer] }
        key = [
            KeyPart(pointers: places("/apiVersion")), KeyPart(pointers: places("/kind")),
            KeyPart(pointers: places("/metadata/namespace"), isOptional: true),
            KeyPart(pointers: places("/metadata/name")),
        ]
        value = ["/object", ""]
        revision = places("/metadata/resourceVersion")
        deletions = [#"/type="DELETED""#]
    }

    /// Change events, with or without their schema, or flattened to the row.
    private mutating func setDebezium(keyFields: [String]) {
        func places(_ pointer: String) -> [String] { [pointer, "/payload" + pointer] }
        key =
            ["/source/db", "/source/schema", "/source/table"].map {
                KeyPart(pointers: places($0), isOptional: true)
            }
            + keyFields.map { field in
                let name = Self.step(field)
                return KeyPart(pointers: places("/after" + name) + places("/before" + name) + [name])
            }
        value = places("/after") + [""]
        revision = places("/source/lsn")
        deletions = [#"/op="d""#, #"/payload/op="d""#, #"/__deleted="true""#]
    }

    /// `kcat -J`.
    private mutating func setKcat() {
        key = [KeyPart(pointers: ["/topic"]), KeyPart(pointers: ["/key"])]
        value = ["/payload"]
        revision = ["/offset"]
        deletions = ["/payload=null"]
    }

    /// A name as a step of a pointer.
    private static func step(_ name: String) -> String {
        var step = "/"
        for character in name.unicodeScalars {
            switch character {
            case "~": step += "~0"
            case "/": step += "~1"
            default: step.unicodeScalars.append(character)
            }
        }
        return step
    }
}
