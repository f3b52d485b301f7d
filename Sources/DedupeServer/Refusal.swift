// SPDX-License-Identifier: Apache-2.0

#if Server

internal import HTTPTypes
internal import HummingbirdCore
internal import NIOCore

/// A response other than what was asked for: a status, and a sentence for people.
struct Refusal: Error, Equatable {
    var status: HTTPResponse.Status
    var text: String
    var headers = HTTPFields()

    static func badRequest(_ text: String) -> Refusal { Refusal(status: .badRequest, text: text) }

    static func forbidden(_ text: String) -> Refusal { Refusal(status: .forbidden, text: text) }

    static let unauthorized = Refusal(
        status: .unauthorized,
        text: "A token is needed: the header \"Authorization: Bearer TOKEN\", or the parameter token=TOKEN.",
        headers: [.wwwAuthenticate: "Bearer"])

    static func notFound(_ path: String) -> Refusal {
        Refusal(
            status: .notFound,
            text: "There is no \(path.prefix(100)). There are /, /events, /lines, /snapshot and /statistics.")
    }

    static let methodNotAllowed = Refusal(
        status: .methodNotAllowed, text: "Only GET and HEAD are allowed.", headers: [.allow: "GET, HEAD, OPTIONS"])

    static func busy(_ text: String, retryAfter seconds: Int) -> Refusal {
        Refusal(status: .serviceUnavailable, text: text, headers: [.retryAfter: String(seconds)])
    }

    static let headersTooLarge = Refusal(
        status: .requestHeaderFieldsTooLarge, text: "The headers of the request are too large.",
        headers: [.connection: "close"])

    static let malformed = Refusal(
        status: .badRequest, text: "This is no request of HTTP/1.1.", headers: [.connection: "close"])

    var response: Response { .text(text + "\n", status: status, headers: headers) }
}

extension Response {
    static func text(
        _ text: String, status: HTTPResponse.Status = .ok, type: String = "text/plain; charset=utf-8",
        headers: HTTPFields = [:]
    ) -> Response {
        var headers = headers
        headers[.contentType] = type
        headers[.cacheControl] = "no-store"
        headers[.xContentTypeOptions] = "nosniff"
        return Response(status: status, headers: headers, body: ResponseBody(byteBuffer: ByteBuffer(string: text)))
    }
}

#endif
