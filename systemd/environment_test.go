package systemd_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"usage-sync/job/discover"
)

// TestEnvironmentFile has systemd read settings files of every shape, and discover the same: what people write by hand is
// judged by what a pass would get.
func TestEnvironmentFile(t *testing.T) {
	needHost(t)
	b := newBench(t)
	files := []string{
		"A=1", "A=1\nA=2\n", "A = 1 \nB=2", "export A=1\nB=2\n", "A\nB=2\n", " A=1\n\tB= 2\t\n",
		"A=\"a b\"\nB='c \"d\"'\n", "A=\"a\\\"b\\$c\\\\d\\`e\\nf\"\n", "A='a\\b'\n", "A=a\\ b\\\n  c\nB=2", "A=\"two\nlines\"\nB=2\n",
		"# A=1\n;B=2\nC=3\n", "A=1 # no comment\nB=2", "A=\"a\"b\"c\" d\nB=2", "A='a' 'b'\nB=2", "1A=1\nA-B=2\n_A=3\n", "A=\r\nB=2\r\n",
		"A=a  \\\n\nB=2", "A=\"unclosed\nB=2", "A='unclosed\nB=2", "A=$B ${B} `c`\nB=2", "=1\nB=2", "A=é\nB=2", "A=\"a\\\nb\"\nB=2",
		"A=a\\", "A=\"a\\", "A=\nB=2", "A==1\nB=2", "A=a 'b c' \"d\"\nB=2",
	}
	// And what nobody writes by hand. The comments' backslashes, which versions read differently, are left out.
	random := rand.New(rand.NewPCG(17, 4))
	alphabet := []string{"A", "B", "=", " ", "\n", "\"", "'", "\\", "a", "\t", "$", "`"}
	for range 40 {
		var text strings.Builder
		text.WriteString("A=")
		for range 12 {
			text.WriteString(alphabet[random.IntN(len(alphabet))])
		}
		files = append(files, text.String())
	}
	for n, text := range files {
		path := fmt.Sprintf("/run/settings-%d", n)
		b.write(path, text)
		if _, err := b.run("systemd-run", "--quiet", "--service-type=oneshot", "--property=EnvironmentFile="+path,
			"--property=StandardOutput=truncate:"+path+".read", "/usr/bin/env", "-0"); err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		out, err := os.ReadFile(b.inside(path + ".read"))
		must(t, err)
		got := map[string]string{}
		for entry := range strings.SplitSeq(string(out), "\x00") {
			if name, value, _ := strings.Cut(entry, "="); name != "" && strings.Trim(name, "_1ABCaé") == "" {
				got[name] = value
			}
		}
		want, _ := discover.ReadEnvironment(text)
		if !maps.Equal(got, want) {
			t.Errorf("%q: %q, systemd reads %q", text, want, got)
		}
	}
}
