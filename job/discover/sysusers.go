package discover

import (
	"fmt"
	"os/user"
	"path/filepath"
	"strings"
)

// sysusersFile is the name of the file that declares a user of an instance, and the name of that user.
const sysusersName = "usage-sync-"

// sysusers declares the user and the group of a database that does not belong to root: systemd refuses a unit
// whose User= or Group= has no entry, even as a number (217/USER, 216/GROUP; seen with systemd 252 and 257). It
// returns nothing where the host knows both already. Only /etc/passwd is looked at; systemd-sysusers(8) asks
// the name service too.
func (l Layout) sysusers(i Instance) (file, content string) {
	name := fmt.Sprintf("%s%d", sysusersName, i.UID)
	group := fmt.Sprintf("%s%d", sysusersName, i.GID)
	userKnown, groupKnown := i.UID == 0, i.GID == 0
	if u, err := user.LookupId(fmt.Sprint(i.UID)); err == nil && u.Username != name {
		userKnown = true
	}
	if g, err := user.LookupGroupId(fmt.Sprint(i.GID)); err == nil && g.Name != group {
		groupKnown = true
	}
	var lines []string
	if !groupKnown {
		lines = append(lines, fmt.Sprintf("g %s %d", group, i.GID))
	}
	if !userKnown {
		lines = append(lines, fmt.Sprintf("u %s %d:%d \"Owner of containers' databases\"", name, i.UID, i.GID))
	}
	if i.UID == 0 || len(lines) == 0 {
		return "", ""
	}
	return filepath.Join(l.Sysusers, fmt.Sprintf("%s%d-%d.conf", sysusersName, i.UID, i.GID)),
		marked(strings.Join(lines, "\n") + "\n")
}
