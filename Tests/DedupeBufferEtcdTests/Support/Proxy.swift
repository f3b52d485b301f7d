// SPDX-License-Identifier: Apache-2.0

#if Etcd

import Foundation

/// A TCP proxy on loopback whose network a test can break.
final class Proxy: Sendable {
    enum Mode: Sendable {
        /// Everything passes.
        case open
        /// Connections end, and new ones end at once.
        case cut
        /// Connections stay open and nothing passes, as behind a router that drops packets.
        case frozen
    }

    private struct State {
        var mode = Mode.open
        /// The port that new connections go to.
        var target: Int
        /// Both sockets of each connection.
        var sockets: Set<CInt> = []
        /// Those of them that nothing passes.
        var frozen: Set<CInt> = []
    }

    let port: Int
    private let listener: CInt
    private let state: Gate<State>

    /// A proxy in front of a port of loopback.
    init(to target: Int) throws {
        let listener = socket(AF_INET, streamSocket, 0)
        let port = try freePort()
        var address = loopback(port: port)
        var yes: CInt = 1
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<CInt>.size))
        let isBound = withSocketAddress(&address) { bind(listener, $0, $1) == 0 }
        guard isBound, listen(listener, 64) == 0 else { throw ProgramError("the proxy cannot listen") }
        let state = Gate(State(target: target))
        (self.listener, self.port, self.state) = (listener, port, state)
        Foundation.signal(SIGPIPE, SIG_IGN)
        Thread.detachNewThread { Self.accept(listener, state) }
    }

    deinit {
        set(.cut)
        // Ends the thread that accepts.
        shutdown(listener, CInt(SHUT_RDWR))
    }

    var mode: Mode { state.withLock { $0.mode } }

    func set(_ mode: Mode) {
        state.change { state in
            state.mode = mode
            guard mode == .cut else { return }
            state.frozen = []
            for socket in state.sockets { shutdown(socket, CInt(SHUT_RDWR)) }
        }
    }

    /// Lets nothing pass on the connections that there are. New ones work.
    func freezeConnections() { state.change { $0.frozen = $0.sockets } }

    /// Lets new connections go to another port.
    func redirect(to target: Int) { state.change { $0.target = target } }

    private static func accept(_ listener: CInt, _ state: Gate<State>) {
        while true {
            let client = Foundation.accept(listener, nil, nil)
            guard client >= 0 else { break }
            let server = socket(AF_INET, streamSocket, 0)
            var address = loopback(port: state.withLock { $0.target })
            let isOpen =
                state.withLock { $0.mode != .cut } && withSocketAddress(&address) { connect(server, $0, $1) == 0 }
            guard isOpen, state.withLock({ add(client, server, to: &$0) }) else {
                close(client)
                close(server)
                continue
            }
            let isLast = Gate(false)
            let end: @Sendable () -> Void = {
                for socket in [client, server] { shutdown(socket, CInt(SHUT_RDWR)) }
                // The second of the two threads closes the sockets, when no thread uses them.
                guard
                    isLast.withLock({ isLast in
                        defer { isLast = true }
                        return isLast
                    })
                else { return }
                state.withLock { state in
                    state.sockets.subtract([client, server])
                    state.frozen.subtract([client, server])
                }
                for socket in [client, server] { close(socket) }
            }
            for (from, to) in [(client, server), (server, client)] {
                Thread.detachNewThread {
                    pump(from, to, state)
                    end()
                }
            }
        }
        close(listener)
    }

    private static func add(_ client: CInt, _ server: CInt, to state: inout State) -> Bool {
        guard state.mode != .cut else { return false }
        state.sockets.formUnion([client, server])
        return true
    }

    private static func pump(_ from: CInt, _ to: CInt, _ state: Gate<State>) {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = read(from, &buffer, buffer.count), count > 0 {
            state.wait { $0.mode != .frozen && !$0.frozen.contains(from) }
            var rest = buffer[..<count]
            while !rest.isEmpty {
                let written = rest.withUnsafeBytes { write(to, $0.baseAddress, $0.count) }
                guard written > 0 else { return }
                rest = rest.dropFirst(written)
            }
        }
    }
}

/// A value that threads wait for.
private final class Gate<Value>: @unchecked Sendable {
    // Sendable: the value is only touched under the lock.
    private let condition = NSCondition()
    private var value: Value

    init(_ value: Value) { self.value = value }

    func withLock<Result>(_ body: (inout Value) -> Result) -> Result {
        condition.lock()
        defer { condition.unlock() }
        return body(&value)
    }

    func change(_ body: (inout Value) -> Void) {
        withLock(body)
        condition.broadcast()
    }

    func wait(until isMet: (Value) -> Bool) {
        condition.lock()
        defer { condition.unlock() }
        while !isMet(value) { condition.wait() }
    }
}

private func withSocketAddress<Result>(
    _ address: inout sockaddr_in, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result
) -> Result {
    withUnsafePointer(to: &address) { address in
        address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
}

#endif
