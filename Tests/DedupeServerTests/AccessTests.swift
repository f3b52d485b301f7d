// SPDX-License-Identifier: Apache-2.0

#if Server

import DedupeServer
import Testing

private func expect(
    _ status: Int, _ response: WireResponse, sourceLocation: SourceLocation = #_sourceLocation
) {
    #expect(response.status == status, sourceLocation: sourceLocation)
}

private let secret = "0123456789abcdef-._~+/="

@Suite struct AccessTests {
    // MARK: - Tokens

    @Test(arguments: ["/events", "/lines", "/snapshot", "/statistics"])
    func withoutTheToken_nothingIsServed(path: String) async throws {
        try await withServer(configured { $0.tokens = [Token(secret)!] }) { server in
            for headers in [
                [], ["Authorization: Bearer 0123456789abcdef"], ["Authorization: Basic " + secret],
                ["Authorization: " + secret], ["Cookie: dedupe-token=wrong"], ["Authorization: Bearer " + secret + "x"],
            ] {
                let response = try await server.get(path, headers)
                #expect(response.status == 401)
                #expect(response.head.headers["www-authenticate"] == "Bearer")
            }
            try await expect(401, server.get(path + "?token=wrong"))
        }
    }

    @Test(arguments: ["/snapshot", "/statistics"])
    func withTheToken_everyWayWorks(path: String) async throws {
        let second = Token("another-token-of-someone")!
        try await withServer(configured { $0.tokens = [second, Token(secret)!] }) { server in
            try await expect(200, server.get(path, ["Authorization: Bearer " + secret]))
            try await expect(200, server.get(path, ["Authorization: bearer another-token-of-someone"]))
            try await expect(200, server.get(path, ["Cookie: a=b; dedupe-token=" + secret]))
            try await expect(200, server.get(path + "?token=0123456789abcdef-._~%2B/="))
            // A plus sign in a query stands for a space.
            try await expect(200, server.get(path + "?token=" + secret))
        }
    }

    @Test func page_thatWasAskedFor_isShownAfterTheToken() async throws {
        try await withServer(configured { $0.tokens = [Token(secret)!] }) { server in
            let fromAddress = try await server.get("/?prefix=a%2Fb&token=\(secret)&prefix=c")
            #expect(fromAddress.head.headers["location"] == "/?prefix=a%2Fb&prefix=c")
            let fromForm = try await server.get("/?prefix=a", method: "POST", body: "token=" + secret)
            #expect(fromForm.status == 303)
            #expect(fromForm.head.headers["location"] == "/?prefix=a")
        }
    }

    @Test func page_withoutTheToken_asksForIt() async throws {
        try await withServer(configured { $0.tokens = [Token(secret)!] }) { server in
            let response = try await server.get("/")
            #expect(response.status == 401)
            #expect(response.body.contains("<form method=\"post\""))
            #expect(response.head.headers["content-security-policy"]?.contains("script-src 'none'") == true)
        }
    }

    @Test func form_withTheToken_setsACookie_thatNoScriptSees() async throws {
        try await withServer(configured { $0.tokens = [Token(secret)!] }) { server in
            let wrong = try await server.get("/", method: "POST", body: "token=0123456789abcdeX")
            #expect(wrong.status == 401)
            #expect(wrong.head.headers["set-cookie"] == nil)
            let right = try await server.get("/", method: "POST", body: "token=0123456789abcdef-._~%2B%2F%3D")
            #expect(right.status == 303)
            #expect(right.head.headers["location"] == "/")
            let cookie = try #require(right.head.headers["set-cookie"])
            #expect(cookie == "dedupe-token=\(secret); Path=/; HttpOnly; SameSite=Strict")
            let page = try await server.get("/", ["Cookie: " + cookie.split(separator: ";")[0]])
            #expect(page.status == 200)
            #expect(page.body.contains("<canvas") || page.body.contains("EventSource"))
        }
    }

    @Test(arguments: ["", "name=value", String(repeating: "x", count: 5000)])
    func form_withSomethingElse_isRefused(body: String) async throws {
        try await withServer(configured { $0.tokens = [Token(secret)!] }) { server in
            try await expect(400, server.get("/", method: "POST", body: body))
        }
    }

    @Test func tokenInThePagesAddress_movesToTheCookie() async throws {
        try await withServer(configured { $0.tokens = [Token(secret)!] }) { server in
            let response = try await server.get("/?token=0123456789abcdef-._~%2B/=")
            #expect(response.status == 303)
            #expect(response.head.headers["location"] == "/")
            #expect(response.head.headers["referrer-policy"] == "same-origin")
        }
    }

    @Test(arguments: ["short", "with a space in it", "with;semicolon-here", "mit-Umläuten-und-so", ""])
    func badToken_isNone(text: String) {
        #expect(Token(text) == nil)
    }

    // MARK: - Origins

    @Test func pageOfAnotherOrigin_isRefused() async throws {
        try await withServer { server in
            let response = try await server.get("/snapshot", ["Origin: https://example.org"])
            #expect(response.status == 403)
            #expect(response.head.headers["access-control-allow-origin"] == nil)
        }
    }

    @Test func ownPage_isNoOtherOrigin() async throws {
        try await withServer { server in
            for scheme in ["http", "https"] {
                let headers = ["Host: localhost:\(server.port)", "Origin: \(scheme)://localhost:\(server.port)"]
                let response = try await server.get("/snapshot", headers)
                #expect(response.status == 200)
                #expect(response.head.headers["access-control-allow-origin"] == nil)
            }
        }
    }

    @Test func allowedOrigin_mayRead_refusalsToo() async throws {
        try await withServer(configured { $0.allowedOrigins = ["https://example.org"] }) { server in
            let origin = "Origin: https://example.org"
            for path in ["/snapshot", "/statistics", "/nothing", "/lines?x"] {
                let response = try await server.get(path, [origin])
                #expect(response.head.headers["access-control-allow-origin"] == "https://example.org")
                #expect(response.head.headers["vary"] == "Origin")
            }
            try await expect(403, server.get("/snapshot", ["Origin: https://example.com"]))
            let head = try await blocking {
                let client = try server.connect()
                try client.request("/events", [origin])
                return try client.head()
            }
            #expect(head.headers["access-control-allow-origin"] == "https://example.org")
        }
    }

    @Test func everyOrigin_canBeAllowed() async throws {
        try await withServer(configured { $0.allowedOrigins = ["*"] }) { server in
            let response = try await server.get("/snapshot", ["Origin: https://example.org"])
            #expect(response.head.headers["access-control-allow-origin"] == "*")
        }
    }

    @Test func preflight_namesTheHeaders_withoutAToken() async throws {
        try await withServer(
            configured {
                $0.allowedOrigins = ["https://example.org"]
                $0.tokens = [Token(secret)!]
            }
        ) { server in
            let response = try await server.get(
                "/events", method: "OPTIONS",
                ["Origin: https://example.org", "Access-Control-Request-Headers: authorization"])
            #expect(response.status == 204)
            #expect(response.head.headers["access-control-allow-headers"]?.contains("Authorization") == true)
            #expect(response.head.headers["access-control-allow-headers"]?.contains("Last-Event-ID") == true)
            try await expect(403, server.get("/events", method: "OPTIONS", ["Origin: https://example.com"]))
        }
    }

    // MARK: - Hosts

    @Test func otherNameForTheLoopback_isRefused() async throws {
        try await withServer(configured { $0.allowedHosts = ["proxied.example"] }) { server in
            for (host, status) in [
                ("evil.example", 403), ("evil.example:8080", 403), ("localhost.evil.example", 403),
                ("localhost", 200), ("LOCALHOST:80", 200), ("127.0.0.1:8080", 200), ("[::1]:8080", 200),
                ("127.1.2.3", 200), ("proxied.example", 200), ("127.0.0.1.evil.example", 403),
            ] {
                let response = try await server.get("/snapshot", ["Host: " + host])
                #expect(response.status == status, "\(host)")
            }
        }
    }

    @Test func withATokenAnyNameWillDo() async throws {
        try await withServer(configured { $0.tokens = [Token(secret)!] }) { server in
            let headers = ["Host: elsewhere.example", "Authorization: Bearer " + secret]
            try await expect(200, server.get("/snapshot", headers))
        }
    }
}

#endif
