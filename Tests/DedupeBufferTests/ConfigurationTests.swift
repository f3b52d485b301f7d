// SPDX-License-Identifier: Apache-2.0

// Values of a configuration that no buffer accepts: `validate()` names the member, and so does the
// program's last message.

import DedupeBuffer
import Testing

private typealias Bound = DedupeBufferConfiguration.Bound<Int>

@Suite("Configuration")
struct ConfigurationTests {
    /// A value out of range, and the member that has it.
    struct Wrong: Sendable, CustomTestStringConvertible {
        let member: String
        let change: @Sendable (inout DedupeBufferConfiguration) -> Void

        init(_ member: String, _ change: @escaping @Sendable (inout DedupeBufferConfiguration) -> Void) {
            (self.member, self.change) = (member, change)
        }

        var testDescription: String { member }
    }

    private static let wrong = [
        Wrong("batchSize") { $0.batchSize = 0 },
        Wrong("batchSize") { $0.batchSize = 65_537 },
        Wrong("batchSize") { $0.batchSize = .min },
        Wrong("retry.initialDelay") { $0.retry.initialDelay = .nanoseconds(-1) },
        Wrong("retry.factor") { $0.retry.factor = 0.99 },
        Wrong("retry.factor") { $0.retry.factor = .nan },
        Wrong("retry.maximumDelay") { $0.retry.maximumDelay = .seconds(-1) },
        Wrong("retry.maximumAttempts") { $0.retry.maximumAttempts = 0 },
        Wrong("gracePeriod") { $0.gracePeriod = .nanoseconds(-1) },
        Wrong("minimumInterval") { $0.minimumInterval = .nanoseconds(-1) },
        Wrong("metrics.interval") { $0.metrics = .init(interval: .seconds(-1)) },
    ]

    @Test(arguments: wrong)
    func memberOutOfRange_isNamed(_ wrong: Wrong) throws {
        let error = #expect(throws: DedupeBufferConfiguration.ValidationError.self) {
            try DedupeBufferConfiguration.with(wrong.change).validate()
        }
        #expect(error?.member == wrong.member)
        #expect("\(try #require(error))".hasPrefix("\(wrong.member) must be "))
    }

    private static let right: [@Sendable (inout DedupeBufferConfiguration) -> Void] = [
        { _ in },
        { $0.batchSize = 1 },
        { $0.batchSize = 65_536 },
        { $0.retry = .init(initialDelay: .zero, factor: 1, maximumDelay: .zero, maximumAttempts: 1) },
        { $0.retry = .init(initialDelay: .seconds(Int64.max), factor: .infinity, maximumAttempts: nil) },
        { $0.metrics = .init(interval: .zero) },
        { $0.gracePeriod = .zero },
        { $0.gracePeriod = .seconds(Int64.max) },
        { $0.minimumInterval = .zero },
        { $0.minimumInterval = .seconds(Int64.max) },
    ]

    @Test(arguments: right)
    func membersInRange_areAccepted(_ change: @Sendable (inout DedupeBufferConfiguration) -> Void) throws {
        let configuration = DedupeBufferConfiguration.with(change)
        try configuration.validate()
        _ = StringBuffer(configuration: configuration)
    }

    @Test func boundOutOfRange_isNamed() throws {
        for (bound, member) in [
            (Bound.keys(0), "bound.keys"), (.keys(.min), "bound.keys"), (.bytes(0) { $0 }, "bound.bytes"),
            (.bytes(1, keys: 0) { $0 }, "bound.keys"),
        ] {
            let error = #expect(throws: DedupeBufferConfiguration.ValidationError.self) { try bound.validate() }
            #expect(error?.member == member)
        }
        try Bound.keys(1).validate()
        try Bound.bytes(1, keys: 1) { $0 }.validate()
        try Bound.bytes(.max) { $0 }.validate()
    }

    @Test func bufferWithAMemberOutOfRange_endsTheProgram_withAMessageThatNamesIt() async throws {
        let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
            _ = DedupeBuffer<String, Int>(configuration: .with { $0.retry.factor = 0 })
        }
        let message = String(decoding: try #require(result).standardErrorContent, as: UTF8.self)
        #expect(message.contains("DedupeBuffer: retry.factor must be 1 or more"))
    }

    @Test func bufferWithABoundOutOfRange_endsTheProgram_withAMessageThatNamesIt() async throws {
        let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
            _ = DedupeBuffer<String, Int>(bound: .keys(0))
        }
        let message = String(decoding: try #require(result).standardErrorContent, as: UTF8.self)
        #expect(message.contains("DedupeBuffer: bound.keys must be 1 or more"))
    }
}
