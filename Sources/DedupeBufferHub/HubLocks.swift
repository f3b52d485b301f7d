// SPDX-License-Identifier: Apache-2.0

#if canImport(Darwin)
internal import Darwin
#elseif canImport(Musl)
internal import Musl
#else
internal import Glibc
#endif

/// Many readers or one writer. A writer that waits goes before readers that come later, so it waits
/// for the readers that are inside, and for no others.
///
/// Each reader stays inside for one bounded step.
final class ReadWriteLock: @unchecked Sendable {
    // Sendable: the pointer does not change, and what it points to is a lock.
    private let lock: UnsafeMutablePointer<pthread_rwlock_t>
    /// Readers go through it, and a writer that waits holds it.
    private let gate: PlainLock?

    #if canImport(Musl)
    /// musl's lock lets readers in as long as no writer is inside.
    static let needsGate = true
    #else
    static let needsGate = false
    #endif

    init(isGated: Bool = needsGate) {
        gate = isGated ? PlainLock() : nil
        lock = .allocate(capacity: 1)
        #if canImport(Glibc)
        var attributes = pthread_rwlockattr_t()
        pthread_rwlockattr_init(&attributes)
        // glibc's default lets readers in as long as there are any.
        let kind = isGated ? PTHREAD_RWLOCK_PREFER_READER_NP : PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP
        pthread_rwlockattr_setkind_np(&attributes, Int32(kind))
        let result = pthread_rwlock_init(lock, &attributes)
        pthread_rwlockattr_destroy(&attributes)
        #else
        let result = pthread_rwlock_init(lock, nil)
        #endif
        precondition(result == 0, "cannot make a lock")
    }

    deinit {
        pthread_rwlock_destroy(lock)
        lock.deallocate()
    }

    func lockToRead() {
        if let gate {
            gate.lock()
            gate.unlock()
        }
        pthread_rwlock_rdlock(lock)
    }

    func lockToWrite() {
        gate?.lock()
        pthread_rwlock_wrlock(lock)
        gate?.unlock()
    }

    func unlock() { pthread_rwlock_unlock(lock) }
}

/// A mutual exclusion lock.
///
/// `Synchronization.Mutex` would do, but on Linux ThreadSanitizer does not see it and reports what
/// it protects.
final class PlainLock: @unchecked Sendable {
    // Sendable: the pointer does not change, and what it points to is a lock.
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>

    init() {
        mutex = .allocate(capacity: 1)
        let result = pthread_mutex_init(mutex, nil)
        precondition(result == 0, "cannot make a mutex")
    }

    deinit {
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    func lock() { pthread_mutex_lock(mutex) }
    func unlock() { pthread_mutex_unlock(mutex) }

    func withLock<R>(_ body: () -> R) -> R {
        lock()
        defer { unlock() }
        return body()
    }
}
