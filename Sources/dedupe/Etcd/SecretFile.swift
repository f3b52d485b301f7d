// SPDX-License-Identifier: Apache-2.0

#if Etcd

/// The files of passwords, certificates and keys.
enum SecretFile {
    /// A file of the command line that is of no use.
    struct Problem: Error, CustomStringConvertible {
        var path: String
        var reason: String
        var description: String { "\(path): \(reason)" }
    }

    /// What a file in PEM form has.
    enum Content {
        case certificate
        case privateKey
    }

    /// Longer files are none of these.
    private static let mostBytes = 16 << 20

    /// The first line of a file, without its end.
    static func password(in path: String) throws(Problem) -> String {
        let newline = UInt8(ascii: "\n")
        let line = try bytes(of: path, until: newline).prefix { $0 != newline }
        let password = line.last == UInt8(ascii: "\r") ? line.dropLast() : line
        guard !password.isEmpty else { throw Problem(path: path, reason: "the first line, the password, is empty") }
        guard let text = String(validating: password, as: UTF8.self) else {
            throw Problem(path: path, reason: "the password is not UTF-8")
        }
        return text
    }

    /// Checks a file that is read again for later connections. Then it is too late to end the
    /// program.
    static func check(_ path: String, has content: Content) throws(Problem) {
        let bytes = try bytes(of: path, mustBeRegular: true)
        let text = String(decoding: bytes, as: UTF8.self)
        switch content {
        case .certificate where !text.contains("CERTIFICATE-----"):
            throw Problem(path: path, reason: "there is no certificate in PEM form")
        case .privateKey where text.contains("ENCRYPTED"):
            throw Problem(path: path, reason: "the private key is encrypted, and must not be")
        case .privateKey where !text.contains("PRIVATE KEY-----"):
            throw Problem(path: path, reason: "there is no private key in PEM form")
        default: break
        }
    }

    /// Reads a file up to its end, or to the piece in which a byte occurs.
    private static func bytes(
        of path: String, until last: UInt8? = nil, mustBeRegular: Bool = false
    ) throws(Problem) -> [UInt8] {
        let flags = O_RDONLY | O_CLOEXEC | (mustBeRegular ? O_NONBLOCK : 0)
        let descriptor = open(path, flags)
        guard descriptor >= 0 else { throw .last(path) }
        defer { close(descriptor) }
        if mustBeRegular {
            try requireRegular(descriptor, path)
        }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = read(descriptor, &chunk, chunk.count)
            guard count >= 0 else { throw .last(path) }
            bytes += chunk[..<count]
            guard bytes.count <= mostBytes else { throw Problem(path: path, reason: "the file is too long") }
            if count == 0 || last.map(chunk[..<count].contains) == true { return bytes }
        }
    }

    private static func requireRegular(_ descriptor: CInt, _ path: String) throws(Problem) {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw .last(path) }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw Problem(
                path: path, reason: "it must be a regular file, because it is read again for later connections")
        }
    }
}

extension SecretFile.Problem {
    /// What the last call of the system came to.
    fileprivate static func last(_ path: String) -> Self { Self(path: path, reason: "\(SystemError.last)") }
}

#endif
