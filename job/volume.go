package job

import (
	"fmt"
	"path/filepath"
	"strings"
)

// ErrVolume: the database is not in the volume that the host's settings name for it.
var ErrVolume = NewError(KindPermission, "the database lies elsewhere")

// CheckVolume returns ErrVolume where a database does not really lie below a directory: what is in a volume
// belongs to the container, which may put a symbolic link to another client's volume in its place at any time.
// An empty volume is any. A database that can't be found is left to those who open it.
func CheckVolume(database, volume string) error {
	if volume == "" {
		return nil
	}
	real, err := filepath.EvalSymlinks(database)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return nil
	}
	root, err := filepath.EvalSymlinks(volume)
	if err != nil {
		return fmt.Errorf("%w: %s is not below %s: %w", ErrVolume, real, volume, err)
	}
	if !strings.HasPrefix(real, strings.TrimSuffix(root, "/")+"/") {
		return fmt.Errorf("%w: %s is not below %s (USAGE_SYNC_VOLUME)", ErrVolume, real, volume)
	}
	return nil
}
