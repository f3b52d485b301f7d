// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBufferEtcd
import Logging
import Synchronization
import Testing

@testable import dedupe

/// What standard error says about the connection.
@Suite struct EtcdMessagesTests {
    private final class Lines: Sendable {
        private let lines = Mutex<[String]>([])
        var all: [String] { lines.withLock { $0 } }
        func add(_ line: String) { lines.withLock { $0.append(line) } }

        /// The lines since the last call.
        func take() -> [String] {
            lines.withLock { lines in
                defer { lines = [] }
                return lines
            }
        }
    }

    /// The messages of one run.
    private struct Run {
        private let lines = Lines()
        private let logger: Logger
        private let messages: EtcdMessages

        init() {
            let messages = EtcdMessages { [lines] in lines.add($0) }
            self.messages = messages
            logger = Logger(label: "test") { _ in AttemptLog(messages) }
        }

        /// The messages since the last call.
        func take() -> [String] { lines.take() }

        func fail(_ endpoint: String, _ error: String, _ states: EtcdSyncerState...) {
            logger.debug("Attempt failed", metadata: ["syncer.endpoint": "\(endpoint)", "syncer.error": "\(error)"])
            states.forEach(become)
        }

        func become(_ state: EtcdSyncerState) { messages.stateChanged(state) }
    }

    private let refused = "unavailable: Could not establish a connection to x. (Connection refused) (errno: 111))"
    private let denial = "permissionDenied: etcdserver: permission denied"

    @Test func denial_whenNoEndpointWorks_isTheOnlyMessage() {
        let run = Run()
        run.fail("http://a:1", denial, .denied(denial), .unreachable(denial))
        run.fail("http://a:1", denial)
        #expect(
            run.take() == [
                "the cluster refuses the user, and is tried again: http://a:1: etcdserver: permission denied"
            ])
    }

    @Test func failures_beforeTheFirstConnection_areToldWhenNoEndpointWorks() throws {
        let run = Run()
        run.fail("http://a:1", refused)
        #expect(run.take() == [])
        run.fail("https://b:2", "unavailable: x (CERTIFICATE_VERIFY_FAILED at y)", .unreachable(""))
        #expect(
            run.take() == [
                "the cluster cannot be reached, and is tried again: http://a:1: the connection was refused; "
                    + "https://b:2: the member's certificate is not trusted; --ca names its authority"
            ])
        run.become(.connected(try .init("http://a:1")))
        #expect(run.take() == ["connected to http://a:1"])
        run.fail("http://a:1", refused)
        run.become(.connected(try .init("https://b:2")))
        #expect(run.take() == [], "a second endpoint that works is no news")
    }

    @Test func otherCause_afterTheFirstWasTold_isToldOnce() throws {
        let run = Run()
        run.fail("http://a:1", refused, .unreachable(refused))
        _ = run.take()
        let preface =
            "unavailable: The server accepted the TCP connection but closed the connection before "
            + "completing the HTTP/2 connection preface."
        for _ in 0..<3 {
            run.fail("http://a:1", preface)
            run.fail("http://a:1", refused)
        }
        #expect(
            run.take() == [
                "the cluster still fails: http://a:1: the member does not speak etcd's protocol; "
                    + "does it serve https:?"
            ])
        run.become(.connected(try .init("http://a:1")))
        _ = run.take()
        run.fail("http://a:1", preface, .unreachable(preface))
        #expect(run.take().count == 1, "after a connection everything is news again")
    }

    @Test func memberThatEnds_isOneMessage_whateverItsConnectionsSay() {
        let run = Run()
        let closed = "unavailable: Stream unexpectedly closed."
        run.fail("http://a:1", closed, .unreachable(closed))
        run.fail("http://a:1", refused)
        #expect(
            run.take() == [
                "the cluster cannot be reached, and is tried again: http://a:1: Stream unexpectedly closed."
            ])
    }

    @Test func causesWithoutEnd_areTwentyMessages() {
        let run = Run()
        for number in 0..<50 { run.fail("http://a:1", "unauthenticated: \(number)", .denied("")) }
        #expect(run.take().count == 20)
    }

    @Test func resync_afterTheFirstSnapshot_isTold_exceptAudits() {
        let run = Run()
        run.become(.resyncing(.initial))
        run.become(.inSync)
        run.become(.resyncing(.audit))
        run.become(.inSync)
        run.become(.resyncing(.compacted))
        #expect(run.take() == ["everything is read again: etcd no longer has what was missed"])
    }

    // MARK: - Keys that are left out

    /// A time that the test sets.
    private final class Time: Sendable {
        private let time = Mutex(ContinuousClock.now)
        var now: ContinuousClock.Instant { time.withLock { $0 } }
        func advance(by duration: Duration) { time.withLock { $0 = $0.advanced(by: duration) } }
    }

    /// A log whose time the test sets.
    private struct Refusals {
        private let lines = Lines()
        private let time = Time()
        let refused: RefusedLog

        init() {
            refused = RefusedLog(now: { [time] in time.now }, report: { [lines] in lines.add($0) })
        }

        var all: [String] { lines.all }
        func advance(by duration: Duration) { time.advance(by: duration) }
    }

    @Test func refusedKey_isReportedOnce_untilItCanBeWritten() {
        let refusals = Refusals()
        for _ in 0..<30 { refusals.refused.add(key: [0x61], "bad") }
        refusals.refused.add(key: [0x62], "bad")
        #expect(refusals.all == ["\"a\": bad", "\"b\": bad"] && refusals.refused.count == 31)
        refusals.refused.isWritable([0x61])
        refusals.refused.add(key: [0x61], "bad")
        refusals.refused.finish()
        #expect(refusals.all == ["\"a\": bad", "\"b\": bad", "\"a\": bad"])
    }

    @Test func refusedKeys_inAMinute_areTwentyMessages_andThenMore() {
        let refusals = Refusals()
        for number in 0..<25 { refusals.refused.add(key: [0x61, UInt8(0x61 + number)], "bad") }
        #expect(refusals.all.count == 20)
        refusals.advance(by: .seconds(59))
        refusals.refused.add(key: [0x62], "bad")
        #expect(refusals.all.count == 20)
        refusals.advance(by: .seconds(1))
        refusals.refused.add(key: [0x63], "bad")
        #expect(refusals.all.suffix(2) == ["6 more keys or values were left out", "\"c\": bad"])
    }

    @Test func keysInMessages_areToldApart() {
        let refusals = Refusals()
        refusals.refused.add(key: [0x2F, 0xFF], "bad")
        refusals.refused.add(key: [0x2F, 0xFE], "bad")
        refusals.refused.add(key: [0x0A], "bad")
        refusals.refused.add(key: Array(repeating: 0x61, count: 300), "bad")
        let long = String(repeating: "a", count: 200)
        #expect(refusals.all == ["base64 L/8=: bad", "base64 L/4=: bad", "\"\\n\": bad", "\"\(long)\"...: bad"])
    }
}

#endif
