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

// completionOf is what makes each shell ask the program itself (https://github.com/posener/complete). zsh has bash's
// way of asking; fish runs a command and hands over the line in a variable.
var completionOf = map[string]string{
	"bash": "complete -C usage-sync usage-sync",
	"zsh":  "autoload -U +X bashcompinit && bashcompinit\ncomplete -o nospace -C usage-sync usage-sync",
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
