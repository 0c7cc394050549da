import ArgumentParser
import Files

/// `imgbox manual`: the man page, made from the same declarations as `--help`.
struct ManualCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "manual", abstract: "Print the manual page, for man(1).", shouldDisplay: false)

    func run() throws {
        var page = """
            .TH IMGBOX 1 "" "imgbox \(Imgbox.version)" "User Commands"
            .SH NAME
            imgbox \\- \(Manual.escaped(Imgbox.configuration.abstract))
            .SH SYNOPSIS
            .B imgbox
            [\\-\\-root DIR] COMMAND [OPTIONS] [ARGUMENTS]
            .SH DESCRIPTION
            \(Manual.escaped(Imgbox.configuration.discussion))
            .SH COMMANDS

            """
        for command in Imgbox.commands where command.configuration.shouldDisplay {
            page += ".SS imgbox \(command.configuration.commandName ?? "")\n.nf\n"
            page += Manual.escaped(Imgbox.helpMessage(for: command, columns: 76)) + "\n.fi\n"
        }
        page += """
            .SH EXIT STATUS
            The exit code of the command for run; 125 when imgbox fails, 126 and 127 when the command cannot be run or
            is not there; 1 when fsck finds something wrong.
            .SH ENVIRONMENT
            .TP
            IMGBOX_ROOT
            The directory of the store, in place of /var/lib/imgbox or ~/.local/share/imgbox.
            .TP
            IMGBOX_MOUNT_API
            With the value "classic" mount(2) is used in place of the newer calls.
            .TP
            SOURCE_DATE_EPOCH
            The creation time of images that pull\\-local makes from a root file system.

            """
        writeText(page, to: 1)
    }
}

/// Text for roff.
private enum Manual {
    static func escaped(_ text: String) -> String {
        text.replacing("\\", with: "\\e").replacing("-", with: "\\-").split(
            separator: "\n", omittingEmptySubsequences: false
        )
        .map { $0.hasPrefix(".") || $0.hasPrefix("'") ? "\\&" + $0 : String($0) }.joined(separator: "\n")
    }
}
