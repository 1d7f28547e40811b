package main

import (
	"fmt"
	"os"

	"github.com/alecthomas/kong"
	"github.com/posener/complete"
	"github.com/willabides/kongplete"
)

type completionsCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (*completionsCmd) Help() string {
	return "Prints what a shell must read to complete usage-sync, e.g. in ~/.bashrc: eval \"$(usage-sync completions bash)\""
}

// ExitHelp lists the exit codes.
func (*completionsCmd) ExitHelp() string { return exitHelp(exitOK, exitUsage) }

// completionOf is what makes each shell ask the program itself (https://github.com/posener/complete), read at the start of
// a shell or from the shell's own directory of completions, where zsh takes the text for the body of a function. Where the
// program knows nothing, bash and zsh offer files.
var completionOf = map[string]string{
	"bash": "complete -o default -C usage-sync usage-sync",
	"zsh": "#compdef usage-sync\n_usage-sync() {\n    local -a found\n" +
		"    found=(${(f)\"$(COMP_LINE=\"${(j: :)words[1,CURRENT]}\" usage-sync)\"})\n" +
		"    if (( $#found )); then compadd -a found; else _files; fi\n}\n" +
		"if [[ $funcstack[1] == _usage-sync ]]; then _usage-sync; else compdef _usage-sync usage-sync; fi",
	"fish": "function __usage_sync_complete\n    set -lx COMP_LINE (commandline -cp)\n    test -z (commandline -ct)\n" +
		"    and set COMP_LINE \"$COMP_LINE \"\n    usage-sync\nend\ncomplete -f -c usage-sync -a \"(__usage_sync_complete)\"",
}

// Run prints the lines of one shell.
func (c *completionsCmd) Run(a *app) error {
	_, err := fmt.Fprintln(a.stdout, completionOf[c.Shell])
	return err
}

// answerCompletion answers a shell that asks for completions, in COMP_LINE, and then ends the process.
func answerCompletion(parser *kong.Kong) {
	if os.Getenv("COMP_LINE") == "" {
		return
	}
	kongplete.Complete(parser, kongplete.WithPredictor("file", complete.PredictFiles("*")))
}
