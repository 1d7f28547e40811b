package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/posener/complete"
	"github.com/willabides/kongplete"

	"usage-sync/job"
	"usage-sync/job/discover"
	"usage-sync/store"
)

type completionsCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (*completionsCmd) Help() string {
	return "Prints what a shell must read to complete usage-sync, e.g. in ~/.bashrc: eval \"$(usage-sync " +
		"completions bash)\""
}

// ExitHelp lists the exit codes.
func (*completionsCmd) ExitHelp() string { return exitHelp(exitOK, exitUsage) }

// completionOf is what makes each shell ask the program itself (https://github.com/posener/complete), read at
// the start of a shell or from the shell's own directory of completions, where zsh takes the text for the body
// of a function. Where the program knows nothing, bash and zsh offer files.
var completionOf = map[string]string{
	"bash": "complete -o default -C usage-sync usage-sync",
	"zsh": "#compdef usage-sync\n_usage-sync() {\n    local -a found\n" +
		"    found=(${(f)\"$(COMP_LINE=\"${(j: :)words[1,CURRENT]}\" usage-sync)\"})\n" +
		"    [[ $PREFIX == --*=* ]] && compset -P '*='\n" +
		"    if (( $#found )); then compadd -a found; else _files; fi\n}\n" +
		"if [[ $funcstack[1] == _usage-sync ]]; then\n    _usage-sync\nelse\n" +
		"    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n    compdef _usage-sync usage-sync\nfi",
	"fish": "function __usage_sync_complete\n    set -lx COMP_LINE (commandline -cp)\n    test -z (commandline -ct)\n" +
		"    and set COMP_LINE \"$COMP_LINE \"\n    set -l found (usage-sync)\n" +
		"    set -l typed (commandline -ct)\n" +
		"    if test (count $found) -eq 0\n        __fish_complete_path (string replace -r '^--[a-z-]+=' '' -- $typed)\n    else\n" +
		"        set -l flag (string match -r '^--[a-z-]+=' -- $typed)\n        printf '%s\\n' " +
		"\"$flag\"$found\n    end\nend\ncomplete -f -c usage-sync -a \"(__usage_sync_complete)\"",
}

// Run prints the lines of one shell.
func (c *completionsCmd) Run(a *app) error {
	_, err := fmt.Fprintln(a.stdout, completionOf[c.Shell])
	return err
}

// completionTime is how long a shell waits for names.
const completionTime = 2 * time.Second

// answerCompletion answers a shell that asks for completions, in COMP_LINE, and then ends the process.
func answerCompletion(parser *kong.Kong) {
	if os.Getenv("COMP_LINE") == "" {
		return
	}
	command, err := kongplete.Command(parser, kongplete.WithPredictor("file", complete.PredictFiles("*")),
		kongplete.WithPredictor("instance", complete.PredictFunc(instanceNames)),
		kongplete.WithPredictor("organisation", complete.PredictFunc(organisationNames)))
	if err != nil {
		parser.FatalIfErrorf(err)
		return
	}
	maps.Copy(command.GlobalFlags, command.Sub[parser.Model.DefaultCmd.Name].GlobalFlags) // those of the default command stand at the root, too
	answer := complete.New(parser.Model.Name, command)
	answer.Out = parser.Stdout
	answer.Complete()
	parser.Exit(0)
}

// instanceNames completes the name of an instance.
func instanceNames(complete.Args) []string {
	names, _ := discover.Layout{Config: configDir(nil)}.Names()
	return names
}

// organisationNames completes an organisation: those of the database that the words before name, else of all instances.
//
// A shell that waits for a database that hangs is worse than one that has nothing to offer.
func organisationNames(typed complete.Args) []string {
	names, _ := within(context.Background(), completionTime, func(ctx context.Context) ([]string, error) {
		return organisationsOf(ctx, typed), nil
	})
	return names
}

func organisationsOf(ctx context.Context, typed complete.Args) (names []string) {
	line := strings.Fields(os.Getenv("COMP_LINE"))
	layout := discover.Layout{Config: configDir(line)}
	read := func(settings discover.Settings) {
		if job.CheckVolume(settings.Database(), settings.Volume()) != nil {
			return
		}
		db, err := store.Open(ctx, settings.Database(), store.ReadOnly)
		if err != nil {
			return
		}
		defer db.Close()
		orgs, _ := db.Organisations(ctx, nil, time.UTC)
		for _, org := range orgs {
			names = append(names, org.ID)
		}
	}
	if database := cmp.Or(argument(line, "--db", ""), os.Getenv("USAGE_SYNC_DB")); database != "" {
		read(discover.Settings{"USAGE_SYNC_DB": database})
		return names
	}
	instances := instanceNames(typed)
	if name := argument(line, "--instance", "-i"); name != "" {
		instances = []string{name}
	}
	for _, name := range instances {
		if settings, err := layout.ReadSettings(name); err == nil {
			read(settings)
		}
	}
	return names
}
