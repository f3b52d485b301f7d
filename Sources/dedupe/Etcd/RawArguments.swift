// SPDX-License-Identifier: Apache-2.0

#if Etcd

/// The words of the command line as the system gave them.
enum RawArguments {
    /// Whether no word had to be changed to become a string.
    static var areUTF8: Bool {
        let words = UnsafeBufferPointer(start: CommandLine.unsafeArgv, count: Int(CommandLine.argc))
        return words.allSatisfy { word in
            guard let word else { return true }
            return String(validatingCString: word) != nil
        }
    }

    /// The first of some options that the command line has more than once. The parser would take
    /// the last one.
    static func firstRepeated(of options: [String]) -> String? {
        let words = CommandLine.arguments.prefix { $0 != "--" }
        return options.first { option in words.filter { $0 == option || $0.hasPrefix(option + "=") }.count > 1 }
    }
}

#endif
