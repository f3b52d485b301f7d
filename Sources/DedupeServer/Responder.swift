// SPDX-License-Identifier: Apache-2.0

#if Server

internal import DedupeBufferHub
internal import HTTPTypes
internal import HummingbirdCore
internal import NIOCore
internal import Synchronization

/// Answers requests.
struct Responder: Sendable {
    let feed: any ServedFeed
    let configuration: ServerConfiguration
    let access: Access
    let clients: Clients
    let history: History
    let input: @Sendable () -> InputReport
    let begin = ContinuousClock.now

    /// What a request leads to.
    private enum Answer {
        case response(Response)
        case snapshot([[UInt8]])
        case stream(StreamRequest, WireFormat)
    }

    func respond(to request: Request, with writer: consuming ResponseWriter, on channel: any Channel) async throws {
        let connection = Self.connection(of: channel)
        clients.beginRequest(on: connection)
        defer { clients.endRequest(on: connection) }
        do {
            try await respond(to: Exchange(request: request, channel: channel), with: writer)
        } catch {
            await untilSent(on: channel)
            throw error
        }
        await untilSent(on: channel)
    }

    /// A response that waits in the program is not over: the client can still be given up, and the
    /// connection is not idle.
    private func untilSent(on channel: any Channel) async {
        let progress = Progress(on: channel, patience: configuration.idleTimeout)
        defer { progress.stop() }
        await Self.connection(of: channel).untilSent()
    }

    /// A request, and what is known of its response.
    private struct Exchange {
        let request: Request
        /// The connection, or the stream of HTTP/2.
        let channel: any Channel
        /// What allows the page of another origin to read the response.
        var allowing = HTTPFields()
    }

    private func respond(to exchange: Exchange, with writer: consuming ResponseWriter) async throws {
        var (exchange, request) = (exchange, exchange.request)
        do throws(Refusal) {
            try access.checkHost(request)
            exchange.allowing = try access.checkOrigin(request)
        } catch {
            return try await write(error.response, for: exchange, writer)
        }
        let answer: Answer
        do throws(Refusal) {
            answer = try await self.answer(to: exchange)
        } catch {
            return try await write(error.response, for: exchange, writer)
        }
        switch answer {
        case .response(let response): try await write(response, for: exchange, writer)
        case .snapshot(let prefixes): try await sendSnapshot(of: prefixes, for: exchange, writer)
        case .stream(let stream, let format): try await serve(stream, as: format, for: exchange, writer)
        }
    }

    // MARK: - Routes

    private func answer(to exchange: Exchange) async throws(Refusal) -> Answer {
        let request = exchange.request
        if request.method == .options { return .response(access.preflight(exchange.allowing)) }
        let path = request.uri.path
        if path == "/" { return .response(try await page(for: exchange)) }
        guard ["/events", "/lines", "/snapshot", "/statistics"].contains(path) else { throw .notFound(path) }
        guard request.method == .get || request.method == .head else { throw .methodNotAllowed }
        try access.checkToken(request)
        if path == "/statistics" { return .response(try statistics(for: request)) }
        let stream = try StreamRequest(query: request.uri.query, lastEventID: request.headers[.lastEventID])
        switch path {
        case "/events": return .stream(stream, .events)
        case "/lines": return .stream(stream, .lines)
        default:
            guard stream.interval == nil, stream.position == nil else {
                throw .badRequest("A snapshot has no interval= and no since=.")
            }
            return .snapshot(stream.prefixes)
        }
    }

    private func statistics(for request: Request) throws(Refusal) -> Response {
        var first = 0
        for (name, value) in try StreamRequest.parameters(of: request.uri.query) where name != "token" {
            guard name == "history", let number = Int(value) else {
                throw .badRequest("The statistics have one parameter: history= and a number.")
            }
            first = number
        }
        return .text(body(historyFrom: first).json, type: "application/json")
    }

    // MARK: - The page

    /// The page, for browsers that show a token. Others get a form that asks for it.
    private func page(for exchange: Exchange) async throws(Refusal) -> Response {
        let request = exchange.request
        switch request.method {
        case .get, .head:
            if let token = try pageToken(of: request) { return logIn(token, request) }
            do throws(Refusal) {
                try access.checkToken(request)
            } catch {
                return form(status: error.status)
            }
            return Self.response(page: PageContent.page, policy: PageContent.policy)
        case .post where access.needsToken:
            guard let token = await formToken(of: exchange) else { throw .badRequest("The form has one field, token.") }
            return logIn(token, request)
        default: throw .methodNotAllowed
        }
    }

    /// The token that the form has sent.
    private func formToken(of exchange: Exchange) async -> String? {
        // A form is short. So there is no progress to wait for.
        let progress = Progress(on: exchange.channel, patience: configuration.idleTimeout)
        defer { progress.stop() }
        guard let buffer = try? await exchange.request.body.collect(upTo: 4096),
            let parameters = try? StreamRequest.parameters(of: String(buffer: buffer))
        else { return nil }
        return Access.token(in: parameters)
    }

    /// The token in the page's address, which then leaves the address.
    private func pageToken(of request: Request) throws(Refusal) -> String? {
        guard access.needsToken else { return nil }
        return Access.token(in: try StreamRequest.parameters(of: request.uri.query))
    }

    /// Sends the browser to the page that it asked for.
    private func logIn(_ token: String, _ request: Request) -> Response {
        guard access.isKnown(token) else { return form(status: .unauthorized) }
        let query = StreamRequest.query(request.uri.query, without: "token")
        return Response(
            status: .seeOther,
            headers: [
                .location: "/" + query, .setCookie: access.cookie(for: token), .cacheControl: "no-store",
                .referrerPolicy: "same-origin",
            ])
    }

    private func form(status: HTTPResponse.Status) -> Response {
        var response = Self.response(page: PageContent.form, policy: PageContent.formPolicy)
        response.status = status
        response.headers[.wwwAuthenticate] = "Bearer"
        return response
    }

    /// With "no-referrer" a browser would send the form with the origin "null".
    private static func response(page: String, policy: String) -> Response {
        .text(
            page, type: "text/html; charset=utf-8",
            headers: [.contentSecurityPolicy: policy, .referrerPolicy: "same-origin"])
    }

    // MARK: - Streams

    private func serve(
        _ request: StreamRequest, as format: WireFormat, for exchange: Exchange, _ writer: consuming ResponseWriter
    ) async throws {
        var headers = exchange.allowing
        headers[.contentType] = format.contentType
        headers[.cacheControl] = "no-store"
        headers[.xContentTypeOptions] = "nosniff"
        // Proxies must not collect what has to arrive at once.
        headers[.xAccelBuffering] = "no"
        headers[.date] = HTTPDate.now
        if exchange.request.method == .head { return try await sendHead(headers, for: exchange, writer) }
        let head = HTTPResponse(status: .ok, headerFields: headers)

        var request = request
        request.interval = [configuration.minimumInterval, request.interval].compactMap { $0 }.max()
        let client: StreamClient
        do throws(Refusal) {
            client = try clients.admit { number in
                StreamClient(
                    describe(request, number: number, format, exchange.channel), on: exchange.channel,
                    configuration: configuration)
            }
        } catch {
            return try await write(error.response, for: exchange, writer)
        }
        defer { clients.remove(client) }
        try await client.run(request, from: feed, head: head)
    }

    /// The answer to HEAD. In HTTP/1.1 the encoder ends every response of unknown length with an
    /// empty chunk, which the next response on the connection would begin with. So this is the last
    /// one.
    private func sendHead(
        _ headers: HTTPFields, for exchange: Exchange, _ writer: consuming ResponseWriter
    ) async throws {
        var headers = headers
        let isLast = !Self.isHTTP2(exchange.channel)
        if isLast { headers[.connection] = "close" }
        try await writer.writeResponse(HTTPResponse(status: .ok, headerFields: headers))
        if isLast { exchange.channel.close(promise: nil) }
    }

    private func describe(
        _ request: StreamRequest, number: Int, _ format: WireFormat, _ channel: any Channel
    ) -> ClientDescription {
        let address = Self.connection(of: channel).remoteAddress ?? channel.remoteAddress
        let host = address?.ipAddress ?? "?"
        return ClientDescription(
            number: number, format: format, address: host.contains(":") ? "[\(host)]" : host,
            version: Self.isHTTP2(channel) ? "HTTP/2" : "HTTP/1.1", request: request, begin: .now)
    }

    /// A stream of HTTP/2 is a channel in the connection's channel, which has a remote address too.
    private static func isHTTP2(_ channel: any Channel) -> Bool { channel.parent?.remoteAddress != nil }

    static func connection(of channel: any Channel) -> any Channel {
        isHTTP2(channel) ? channel.parent ?? channel : channel
    }

    func closeIdleConnections() {
        clients.closeIdle(longerThan: configuration.idleTimeout + configuration.closingTimeout)
    }

    // MARK: - Snapshots

    private func sendSnapshot(
        of prefixes: [[UInt8]], for exchange: Exchange, _ writer: consuming ResponseWriter
    ) async throws {
        do throws(Refusal) {
            try clients.beginSnapshot()
        } catch {
            return try await write(error.response, for: exchange, writer)
        }
        defer { clients.endSnapshot() }
        let snapshot = await feed.snapshot(prefixes: prefixes)
        let progress = Progress(on: exchange.channel, patience: configuration.idleTimeout)
        defer { progress.stop() }
        let body = snapshot.body { [channel = exchange.channel] in
            await channel.untilSent()
            progress.advance()
        }
        var response = Response(status: .ok, body: body)
        response.headers[.contentType] = "application/json"
        response.headers[.cacheControl] = "no-store"
        response.headers[.xContentTypeOptions] = "nosniff"
        try await send(response, for: exchange, writer)
    }

    // MARK: - Writing

    /// Writes a response. A client that asks again and again, and reads nothing, is given up.
    private func write(_ response: Response, for exchange: Exchange, _ writer: consuming ResponseWriter) async throws {
        let progress = Progress(on: exchange.channel, patience: configuration.idleTimeout)
        defer { progress.stop() }
        try await send(response, for: exchange, writer)
    }

    private func send(_ response: Response, for exchange: Exchange, _ writer: consuming ResponseWriter) async throws {
        var head = response.head
        for field in exchange.allowing { head.headerFields[field.name] = field.value }
        head.headerFields[.date] = HTTPDate.now
        if exchange.request.method == .head {
            try await writer.writeResponse(head)
        } else {
            try await writer.write(response: head, body: response.body)
        }
        // Under the eyes of the progress that has seen the parts before.
        await exchange.channel.untilSent()
    }

    // MARK: - Figures

    func takeSample() {
        let (statistics, figures) = (feed.statistics, clients.figures)
        history.add(
            History.Row(
                time: (ContinuousClock.now - begin).inSeconds, received: input().updates,
                delivered: figures.updates, bytes: figures.bytes, clients: figures.now, keys: statistics.keys,
                pending: figures.pending, lagMedian: statistics.lag.median, lag99: statistics.lag.percentile99))
    }

    private func body(historyFrom first: Int) -> StatisticsBody {
        let (statistics, figures, now) = (feed.statistics, clients.figures, ContinuousClock.now)
        let list = clients.streams.map { StatisticsBody.Client($0, now: now) }
            .sorted { ($0.lag, $1.number) > ($1.lag, $0.number) }
        let lag = statistics.lag
        let rows = history.rows(from: first)
        return StatisticsBody(
            version: configuration.version, seconds: (now - begin).inSeconds, input: input(),
            hub: StatisticsBody.Hub(statistics),
            clients: StatisticsBody.ClientsPart(
                now: figures.now, waiting: statistics.waitingSubscribers, admitted: figures.admitted,
                refused: figures.refused, maximum: configuration.maximumClients, connections: figures.connections,
                bytes: figures.bytes, pending: figures.pending,
                lag: StatisticsBody.Lag(
                    median: lag.median, percentile99: lag.percentile99, maximum: lag.maximum),
                list: Array(list.prefix(StatisticsBody.mostClients))),
            history: StatisticsBody.HistoryPart(next: rows.next, rows: rows.rows))
    }
}

extension HTTPField.Name {
    static let lastEventID = Self("Last-Event-ID")!
    static let xAccelBuffering = Self("X-Accel-Buffering")!
    static let referrerPolicy = Self("Referrer-Policy")!
}

#endif
