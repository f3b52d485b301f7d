// SPDX-License-Identifier: Apache-2.0

/// Reads the input and hands its events to a buffer, on the thread that calls.
struct InputReading {
    var format: InputFormat
    var descriptor: CInt
    /// A descriptor that ends the reading when it can be read.
    var interruption: CInt
    var counters: InputCounters

    /// Why no more is read.
    enum End: Equatable {
        case endOfInput
        case badLine
        case overflow
        case signal
        case unreadable(SystemError)
    }

    /// Opens a file to read.
    ///
    /// Opening a named pipe waits for a writer, where no signal would reach the filter. So it is
    /// opened without waiting, and the waiting is left to the reader.
    static func open(_ path: String) throws(SystemError) -> CInt {
        let descriptor = sysOpen(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        if descriptor < 0 {
            throw .last
        }
        let flags = fcntl(descriptor, F_GETFL)
        if flags < 0 || fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK) < 0 {
            throw .last
        }
        return descriptor
    }

    /// Reads until there is a reason not to. What was read goes to the buffer in any case, except
    /// what follows the bad line that is the last, or an overflow.
    func feedAll(to feed: EventFeed<LineBuffer>) -> End {
        var feed = feed
        let reader: LineReader
        do throws(InputFormat.Problem) {
            reader = try LineReader(format: format, descriptor: descriptor, interruption: interruption)
        } catch {
            fatalError("the command line was checked: \(error)")
        }
        while true {
            let received: LineReader.Input
            do throws(SystemError) {
                received = try reader.receive()
            } catch {
                return .unreadable(error)
            }
            while let events = reader.nextEvents() {
                counters.lines.store(reader.lines, ordering: .relaxed)
                if !feed.take(events) {
                    return feed.hasStopped ? .overflow : .badLine
                }
            }
            counters.lines.store(reader.lines, ordering: .relaxed)
            switch received {
            case .bytes: continue
            case .end: return .endOfInput
            case .interrupted: return .signal
            }
        }
    }
}

/// The system's function, for a type that has an `open` of its own.
private func sysOpen(_ path: String, _ flags: CInt) -> CInt { open(path, flags) }
