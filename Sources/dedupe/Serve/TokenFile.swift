// SPDX-License-Identifier: Apache-2.0

#if Server

import DedupeServer

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// The tokens in a file: one on each line. Blank lines, and lines that begin with `#`, are left
/// out.
enum TokenFile {
    enum Problem: Error, Equatable, CustomStringConvertible {
        case unreadable(SystemError)
        case bad(line: Int)
        case empty

        var description: String {
            switch self {
            case .unreadable(let error): "\(error)"
            case .bad(let line):
                "line \(line) is no token: one has \(Token.minimumLength) to \(Token.maximumLength) letters, digits, "
                    + "and characters of -._~+/="
            case .empty: "there is no token in it"
            }
        }
    }

    static func tokens(at path: String) throws(Problem) -> [Token] {
        do {
            let data = try Data(contentsOf: URL(filePath: path))
            return try tokens(in: String(decoding: data, as: UTF8.self))
        } catch let problem as Problem {
            throw problem
        } catch {
            throw .unreadable(.last)
        }
    }

    static func tokens(in text: String) throws(Problem) -> [Token] {
        var tokens: [Token] = []
        let lines = text.split(omittingEmptySubsequences: false) { $0.isNewline }
        for (index, line) in lines.enumerated() {
            let word = line.drop { $0.isWhitespace }.prefix { !$0.isWhitespace }
            if word.isEmpty || word.hasPrefix("#") { continue }
            guard let token = Token(word) else { throw .bad(line: index + 1) }
            tokens.append(token)
        }
        if tokens.isEmpty { throw .empty }
        return tokens
    }
}

#endif
