package store

/*
#include <stddef.h>

typedef struct sqlite3 sqlite3;
int sqlite3_db_config(sqlite3 *, int, ...);
long long sqlite3_hard_heap_limit64(long long);

static int switch_option(sqlite3 *db, int option, int on) { return sqlite3_db_config(db, option, on, NULL); }
*/
import "C"

import (
	"fmt"
	"reflect"

	"github.com/mattn/go-sqlite3"
)

const (
	// longestValue bounds a text, a blob and a row, in bytes: the largest of ours are a few kilobytes.
	longestValue = 16 << 20
	// mostMemory bounds what SQLite allocates in this process, in bytes. A pass needs a tenth of it.
	mostMemory = 256 << 20
)

// Options of sqlite3_db_config (https://www.sqlite.org/c3ref/c_dbconfig_defensive.html, read in November 2026). The driver
// knows no way to set them.
const (
	configDefensive     = 1010
	configView          = 1015
	configTrustedSchema = 1017
)

// guard keeps a connection from being abused by what is in a database: whoever controls the container can write views, triggers
// and default values that run in this process. Functions with side effects are not called for a schema, views of the file
// are not read, and neither a value nor all of them together take more than a bounded part of the memory.
func guard(conn *sqlite3.SQLiteConn) error {
	db := (*C.sqlite3)(reflect.ValueOf(conn).Elem().FieldByName("db").UnsafePointer())
	for option, on := range map[C.int]C.int{configDefensive: 1, configView: 0, configTrustedSchema: 0} {
		if code := C.switch_option(db, option, on); code != 0 {
			return fmt.Errorf("SQLite option %d: %w", option, sqlite3.ErrNo(code))
		}
	}
	C.sqlite3_hard_heap_limit64(mostMemory)
	conn.SetLimit(sqlite3.SQLITE_LIMIT_LENGTH, longestValue)
	return nil
}
