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
        var allowing = HTTPFields()
        do throws(Refusal) {
            try access.checkHost(request)
            allowing = try access.checkOrigin(request)
        } catch {
            return try await write(error.response, for: request, [:], writer)
        }
        let answer: Answer
        do throws(Refusal) {
            answer = try await self.answer(to: request, allowing)
        } catch {
            return try await write(error.response, for: request, allowing, writer)
        }
        switch answer {
        case .response(let response): try await write(response, for: request, allowing, writer)
        case .snapshot(let prefixes): try await sendSnapshot(of: prefixes, for: request, allowing, writer, channel)
        case .stream(let stream, let format):
            try await serve(stream, as: format, for: request, allowing, writer, channel)
        }
    }

    // MARK: - Routes

    private func answer(to request: Request, _ allowing: HTTPFields) async throws(Refusal) -> Answer {
        if request.method == .options { return .response(access.preflight(allowing)) }
        let path = request.uri.path
        if path == "/" { return .response(try await page(for: request)) }
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
    private func page(for request: Request) async throws(Refusal) -> Response {
        switch request.method {
        case .get, .head:
            if let token = try pageToken(of: request) { return logIn(token) }
            do throws(Refusal) {
                try access.checkToken(request)
            } catch {
                return form(status: error.status)
            }
            return Self.response(page: PageContent.page, policy: PageContent.policy)
        case .post where access.needsToken:
            guard let buffer = try? await request.body.collect(upTo: 4096),
                let parameters = try? StreamRequest.parameters(of: String(buffer: buffer)),
                let token = parameters.first(where: { $0.name == "token" })?.value
            else { throw .badRequest("The form has one field, token.") }
            return logIn(token)
        default: throw .methodNotAllowed
        }
    }

    /// The token in the page's address, which then leaves the address.
    private func pageToken(of request: Request) throws(Refusal) -> String? {
        guard access.needsToken else { return nil }
        return try StreamRequest.parameters(of: request.uri.query).last { $0.name == "token" }?.value
    }

    private func logIn(_ token: String) -> Response {
        guard access.isKnown(token) else { return form(status: .unauthorized) }
        return Response(
            status: .seeOther,
            headers: [
                .location: "/", .setCookie: access.cookie(for: token), .cacheControl: "no-store",
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
            headers: [
                .contentSecurityPolicy: policy, .referrerPolicy: "same-origin", .xContentTypeOptions: "nosniff",
            ])
    }

    // MARK: - Streams

    private func serve(
        _ request: StreamRequest, as format: WireFormat, for original: Request, _ allowing: HTTPFields,
        _ writer: consuming ResponseWriter, _ channel: any Channel
    ) async throws {
        var headers = allowing
        headers[.contentType] = format.contentType
        headers[.cacheControl] = "no-store"
        // Proxies must not collect what has to arrive at once.
        headers[.xAccelBuffering] = "no"
        headers[.date] = HTTPDate.now
        let head = HTTPResponse(status: .ok, headerFields: headers)
        if original.method == .head { return try await writer.writeResponse(head) }

        var request = request
        request.interval = [configuration.minimumInterval, request.interval].compactMap { $0 }.max()
        let client: StreamClient
        do throws(Refusal) {
            client = try clients.admit { number in
                StreamClient(
                    describe(request, number: number, format, channel), on: channel, configuration: configuration)
            }
        } catch {
            return try await write(error.response, for: original, allowing, writer)
        }
        defer { clients.remove(client) }
        try await client.run(request, from: feed, head: head)
    }

    private func describe(
        _ request: StreamRequest, number: Int, _ format: WireFormat, _ channel: any Channel
    ) -> ClientDescription {
        let connection = channel.parent?.remoteAddress == nil ? channel : channel.parent!
        let address = connection.remoteAddress ?? channel.remoteAddress
        let host = address?.ipAddress ?? "?"
        return ClientDescription(
            number: number, format: format, address: host.contains(":") ? "[\(host)]" : host,
            version: Self.isHTTP2(channel) ? "HTTP/2" : "HTTP/1.1", request: request, begin: .now)
    }

    /// A stream of HTTP/2 is a channel in the connection's channel, which has a remote address too.
    private static func isHTTP2(_ channel: any Channel) -> Bool { channel.parent?.remoteAddress != nil }

    // MARK: - Snapshots

    private func sendSnapshot(
        of prefixes: [[UInt8]], for request: Request, _ allowing: HTTPFields, _ writer: consuming ResponseWriter,
        _ channel: any Channel
    ) async throws {
        do throws(Refusal) {
            try clients.beginSnapshot()
        } catch {
            return try await write(error.response, for: request, allowing, writer)
        }
        defer { clients.endSnapshot() }
        let snapshot = await feed.snapshot(prefixes: prefixes)
        let progress = Progress(on: channel, patience: configuration.idleTimeout)
        defer { progress.stop() }
        let body = snapshot.body { progress.advance() }
        var response = Response(status: .ok, body: body)
        response.headers[.contentType] = "application/json"
        response.headers[.cacheControl] = "no-store"
        try await write(response, for: request, allowing, writer)
    }

    // MARK: - Writing

    private func write(
        _ response: Response, for request: Request, _ allowing: HTTPFields, _ writer: consuming ResponseWriter
    ) async throws {
        var head = response.head
        for field in allowing { head.headerFields[field.name] = field.value }
        head.headerFields[.date] = HTTPDate.now
        if request.method == .head {
            try await writer.writeResponse(head)
        } else {
            try await writer.write(response: head, body: response.body)
        }
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
