// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

/// The filter, which runs unless the first word of the command line is a subcommand.
struct FilterCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: DedupeCommand.name,
        abstract: DedupeCommand.abstract,
        usage: "dedupe [<options>] [<file>]",
        discussion: Help.discussion,
        version: DedupeCommand.version)

    @OptionGroup(title: "Where the key is") var input: InputOptions
    @OptionGroup(title: "What is passed on") var rules: RuleOptions
    @OptionGroup(title: "How it runs") var running: RunOptions

    @Argument(help: "The file to read. Standard input if it is missing or \"-\".", completion: .file())
    var file: String?

    func validate() throws {
        let format = try input.format(hasEnvelope: rules.envelope)
        if rules.onMissing != .error && format.shape == .events {
            throw ValidationError("--on-missing needs --key, -k or --from.")
        }
    }

    func run() throws {
        let format = try input.format(hasEnvelope: rules.envelope)
        let filter = Filter(
            format: format, hasEnvelope: rules.envelope || format.shape == .events, rules: rules, running: running)
        let status = filter.run(path: file == "-" ? nil : file)
        if status != 0 {
            throw ExitCode(status)
        }
    }
}
