// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DedupeBufferHub

@Suite struct LockTests {
    /// There is always a reader inside: each stays until another one has come, as long as the
    /// writer lets any in.
    @Test(arguments: [false, true])
    func writer_whileReadersComeAndGo_getsIn(isGated: Bool) throws {
        let lock = ReadWriteLock(isGated: isGated)
        let (entries, isOver) = (Kept(0), Kept(false))
        let readers = (0..<4).map { number in
            Worker("reader \(number)") {
                while !isOver.value {
                    lock.lockToRead()
                    let mine = entries.change { entries in
                        entries += 1
                        return entries
                    }
                    for _ in 0..<100 where entries.value == mine { sched_yield() }
                    lock.unlock()
                }
            }
        }
        let writer = Worker("writer") {
            for _ in 0..<rounds(200) {
                lock.lockToWrite()
                lock.unlock()
            }
        }
        defer { isOver.change { $0 = true } }
        try writer.join()
        isOver.change { $0 = true }
        for reader in readers { try reader.join() }
    }
}
