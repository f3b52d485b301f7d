// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import dedupe

/// Small inputs as other programs write them, and what the filter makes of them.
@Suite(.serialized) struct OtherProgramsTests {
    static let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Cases").path

    private func run(_ file: String, _ arguments: String...) throws -> Outcome {
        try RunningProcess(arguments + ["\(Self.folder)/\(file)"], input: "").end()
    }

    /// The lines of a file.
    private func lines(_ file: String) throws -> [String] {
        try String(contentsOfFile: "\(Self.folder)/\(file)", encoding: .utf8)
            .split(separator: "\n").map(String.init)
    }

    @Test func resyncWithoutResyncStatus() throws {
        // A line that begins with a tilde is where the stream pauses.
        let parts = try lines("stream_resync_no_resync_status.ndjson").split { $0.hasPrefix("~") }
        try #require(parts.count == 2)
        let filter = try RunningProcess([])
        filter.write(parts[0].joined(separator: "\n") + "\n")
        #expect(
            (0..<3).map { _ in filter.readLine() } == [
                #"{"type":"new","key":"a","value":1}"#, #"{"type":"new","key":"b","value":1}"#,
                #"{"status":"in-sync"}"#,
            ])
        filter.write(parts[1].joined(separator: "\n") + "\n")
        filter.closeInput()
        #expect(
            filter.end().output == [
                #"{"type":"updated","key":"a","value":2}"#, #"{"type":"deleted","key":"b","value":null}"#,
                #"{"status":"in-sync"}"#,
            ])
    }

    /// Each object is written before the next one comes, so that the deletion has something to
    /// delete.
    @Test(arguments: [false, true]) func kubectl(hasEnvelope: Bool) throws {
        let text = try String(contentsOfFile: "\(Self.folder)/kubewatch_raw.json", encoding: .utf8)
        let objects = text.components(separatedBy: "\n}\n").dropLast().map { $0 + "\n}\n" }
        try #require(objects.count == 3)
        let filter = try RunningProcess(["--from", "kubectl"] + (hasEnvelope ? ["--envelope"] : []))
        let key = #"["v1","Pod","shop","web-0"]"#
        for (object, kind, type, revision) in [
            (objects[0], "ADDED", "new", 1001), (objects[1], "MODIFIED", "updated", 1007),
            (objects[2], "DELETED", "deleted", 1020),
        ] {
            filter.write(object)
            let line = try #require(filter.readLine())
            if hasEnvelope {
                #expect(line.hasPrefix(#"{"type":"\#(type)","key":\#(key),"value":"#))
                #expect(line.hasSuffix(#","revision":\#(revision)}"#))
                #expect(line.contains(type == "deleted" ? #""value":null"# : #""value":{"apiVersion":"v1""#))
            } else {
                #expect(line.hasPrefix(#"{"type":"\#(kind)","object":{"apiVersion":"v1","kind":"Pod""#))
            }
        }
        filter.closeInput()
        #expect(filter.end().status == 0)
    }

    /// Everything comes before the reader takes anything.
    @Test func debeziumAtOnce() throws {
        var format = FormatTests.json(
            "/key/id", value: ["/value/after"], revision: ["/value/source/lsn"],
            deletions: [#"/value/op="d""#, "/value=null"])
        let bench = try FeedTests.Bench(format, hasEnvelope: true)
        try bench.give(try lines("debezium.ndjson"))
        // The value never left, so it and its deletion cancel; the tombstone is a deletion again.
        #expect(bench.take() == [#"{"type":"deleted","key":7,"value":null}"#])

        format.value = []
        let whole = try FeedTests.Bench(format)
        try whole.give(try lines("debezium.ndjson"))
        #expect(whole.take() == [try lines("debezium.ndjson")[3]])
    }

    @Test func debeziumLineByLine() throws {
        let filter = try RunningProcess([
            "--key", "/key/id", "--value", "/value/after", "--delete-when", #"/value/op="d""#, "--delete-when",
            "/value=null", "--revision", "/value/source/lsn", "--envelope",
        ])
        let expected = [
            #"{"type":"new","key":7,"value":{"id":7,"stock":3},"revision":100}"#,
            #"{"type":"updated","key":7,"value":{"id":7,"stock":2},"revision":120}"#,
            #"{"type":"deleted","key":7,"value":null,"revision":130}"#, #"{"type":"deleted","key":7,"value":null}"#,
        ]
        for (line, written) in zip(try lines("debezium.ndjson"), expected) {
            filter.write(line + "\n")
            #expect(filter.readLine() == written)
        }
    }

    @Test func debeziumPreset() throws {
        let input = try lines("debezium_products.ndjson")
        var format = InputFormat(preset: .debezium, keyFields: [])
        format.value = []  // The reader gets whole lines.
        let bench = try FeedTests.Bench(format)
        try bench.give(input)
        // 101 to 105, 108, 109 are snapshot rows; 106, 107 and 110 were updated, 111 came and went.
        let states = [0, 1, 2, 3, 4, 9, 10, 7, 8, 13].map { input[$0] }
        #expect(bench.take() == states)

        let outcome = try run("debezium_products.ndjson", "--from", "debezium")
        #expect(outcome.status == 0 && outcome.errors == "")
        // However fast the reader is, it gets the last state of each key.
        #expect(Set(outcome.output).isSuperset(of: states))

        let named = try run("debezium_products.ndjson", "--from", "debezium", "--key-field", "name", "--envelope")
        #expect(named.output.first?.contains(#""key":["inventory",null,"products","item 101"]"#) == true)
    }

    @Test func kcat() throws {
        let input = try lines("kcat_J.ndjson")
        let filter = try RunningProcess(["--from", "kcat", "--on-missing", "pass"])
        for line in input {
            filter.write(line + "\n")
            #expect(filter.readLine() == line)
        }
        let reported = try run("kcat_J.ndjson", "--from", "kcat")
        #expect(reported.status == 1 && reported.errors == "dedupe: line 3: there is no key at /key\n")
        #expect(try run("kcat_J.ndjson", "--from", "kcat", "--on-missing", "skip").status == 0)
    }

    @Test func keysOfAnyKind() throws {
        let input = try lines("numkeys.ndjson")
        let outcome = try run("numkeys.ndjson", "--key", "/key")
        #expect(outcome.output == Array(input[0...2] + input[4...5]))
        #expect(outcome.status == 1 && outcome.errors == "dedupe: line 4: there is no key at /key\n")
    }

    @Test(arguments: ["multiline.ndjson", "concat.ndjson"]) func sequences(_ file: String) throws {
        let outcome = try run(file)
        #expect(outcome.status == 0 && outcome.errors == "")
        let keys = outcome.output.map { String($0.split(separator: "\"")[6]) }
        #expect(
            outcome.output.first
                == (file == "concat.ndjson"
                    ? #"{"type":"new","key":"a","value":1}"# : #"{"type":"new","key":"a","value":{"x":1}}"#))
        #expect(keys.count == (file == "concat.ndjson" ? 5 : 2))
    }

    @Test func array() throws {
        let outcome = try run("array.ndjson")
        #expect(outcome.status == 1 && outcome.output == [])
        #expect(
            outcome.errors
                == "dedupe: line 1, column 1: an array of updates is no stream of updates; use: jq -c '.[]' | dedupe\n")
    }

    @Test func deletedWithObject() throws {
        let filter = try RunningProcess([])
        let input = try lines("deleted_with_object.ndjson")
        filter.write(input[0] + "\n")
        #expect(filter.readLine() == input[0])
        filter.write(input[1] + "\n")
        #expect(filter.readLine() == #"{"type":"deleted","key":"pod","value":null}"#)
    }

    @Test func loneSurrogate() throws {
        let outcome = try run("lone_surrogate.ndjson")
        #expect(outcome.status == 0 && outcome.errors == "")
        #expect(outcome.output.last?.hasSuffix(#""key":"msg","value":"cut emoji \ud83d"}"#) == true)
    }

    @Test func lateSnapshotRow() throws {
        let outcome = try run("stream_late_snapshot_row.ndjson", "--newer-only", "--stats")
        #expect(
            outcome.output == [
                #"{"type":"new","key":"z","value":0}"#, #"{"type":"new","key":"row7","value":"new","revision":20}"#,
            ])
        #expect(outcome.errors.contains("1 older"))
    }

    @Test func trailingCommas() throws {
        let outcome = try run("trailcomma.ndjson")
        #expect(outcome.status == 1 && outcome.output == [#"{"type":"new","key":"ok","value":1}"#])
        #expect(
            outcome.errors == """
                dedupe: line 1, column 22: a comma before }
                dedupe: line 2, column 25: a comma before ]
                dedupe: line 3, column 27: a comma before }
                dedupe: line 4, column 22: a comma between values; a stream of values has none

                """)
    }

    @Test func utf16() throws {
        let outcome = try run("utf16.ndjson")
        #expect(outcome.status == 1 && outcome.output == [])
        #expect(outcome.errors.split(separator: "\n").count == 1 && outcome.errors.contains("UTF-16"))
    }

    @Test func unknownMembersAndStatuses() throws {
        let outcome = try run("extra.ndjson")
        #expect(outcome.status == 1)
        #expect(outcome.output == [#"{"type":"new","key":"a","value":1}"#, #"{"status":"in-sync"}"#])
        #expect(
            outcome.errors
                == #"dedupe: line 3, column 11: "status" is not "wait-for-ready", "resync" or "in-sync""# + "\n")
    }

    @Test func duplicateMembers() throws {
        #expect(
            try run("dupkey.ndjson").output == [
                #"{"type":"new","key":"b","value":1}"#, #"{"type":"new","key":"a","value":2}"#,
                #"{"type":"deleted","key":"c","value":null}"#,
            ])
    }

    /// An insertion has no identity, so pointers find no key in it.
    @Test func wal2json() throws {
        let outcome = try run(
            "wal2json_v2.ndjson", "--key", "/schema", "--key", "/table", "--key", "/identity/0/value", "--on-missing",
            "skip", "--delete-when", #"/action="D""#, "--stats")
        #expect(outcome.status == 0)
        #expect(outcome.output == [try lines("wal2json_v2.ndjson")[2]])
        #expect(outcome.errors.contains("3 without a key"))
    }
}
