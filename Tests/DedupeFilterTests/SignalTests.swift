// SPDX-License-Identifier: Apache-2.0

import Foundation
import Synchronization
import Testing

@testable import dedupe

/// What becomes of a signal that comes before the program has said what signals do.
@Suite struct SignalTests {
    private final class Endings: Sendable {
        private let numbers = Mutex<[CInt]>([])
        var all: [CInt] { numbers.withLock { $0 } }

        var actions: SignalWatcher.Actions {
            var actions = SignalWatcher.Actions()
            actions.ending = { number in self.numbers.withLock { $0.append(number) } }
            return actions
        }
    }

    @Test(arguments: [SIGHUP, SIGINT, SIGTERM]) func signal_beforeTheActionsAreSet_endsWhenTheyAre(
        _ number: CInt
    ) throws {
        let (watcher, endings) = (try SignalWatcher(watching: []), Endings())
        watcher.handle(number)
        #expect(watcher.received == number && endings.all == [])
        watcher.set(endings.actions)
        #expect(endings.all == [number])
        watcher.set(endings.actions)
        #expect(endings.all == [number], "a signal ends the program once")
    }

    @Test func signal_afterTheActionsAreSet_endsAtOnce() throws {
        let (watcher, endings) = (try SignalWatcher(watching: []), Endings())
        watcher.handle(SIGUSR1)
        watcher.set(endings.actions)
        #expect(endings.all == [])
        watcher.handle(SIGTERM)
        #expect(endings.all == [SIGTERM])
    }
}
