package aged

/*
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct sqlite3 sqlite3;
typedef struct sqlite3_stmt sqlite3_stmt;
int sqlite3_auto_extension(void (*)(void));
int sqlite3_trace_v2(sqlite3 *, unsigned, int (*)(unsigned, void *, void *, void *), void *);
int sqlite3_stmt_status(sqlite3_stmt *, int, int);
const char *sqlite3_sql(sqlite3_stmt *);

enum { TRACE_PROFILE = 2, FULLSCAN_STEP = 1, VM_STEP = 4 };

typedef struct { char *sql; long long runs, steps, scanned; } statement;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static statement *all;
static int count, room;

static int ended(unsigned event, void *context, void *stmt, void *nanoseconds) {
	const char *sql = sqlite3_sql(stmt);
	if (sql == NULL) return 0;
	pthread_mutex_lock(&mutex);
	int i = 0;
	while (i < count && strcmp(all[i].sql, sql) != 0) i++;
	if (i == count) {
		if (count == room) all = realloc(all, (room = 2 * room + 64) * sizeof *all);
		all[count++] = (statement){strdup(sql), 0, 0, 0};
	}
	all[i].runs++;
	all[i].steps += sqlite3_stmt_status(stmt, VM_STEP, 1);
	all[i].scanned += sqlite3_stmt_status(stmt, FULLSCAN_STEP, 1);
	pthread_mutex_unlock(&mutex);
	return 0;
}

static int watch(sqlite3 *db, const char **problem, const void *api) {
	return sqlite3_trace_v2(db, TRACE_PROFILE, ended, NULL);
}

static int watch_all(void) { return sqlite3_auto_extension((void (*)(void))watch); }

static statement *take(int *n) {
	pthread_mutex_lock(&mutex);
	statement *taken = all;
	*n = count;
	all = NULL;
	count = room = 0;
	pthread_mutex_unlock(&mutex);
	return taken;
}
*/
import "C"

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/mattn/go-sqlite3" // whose SQLite is watched
)

// Statement is what one statement has cost, however often it ran. The figures are SQLite's own
// (https://www.sqlite.org/c3ref/c_stmtstatus_counter.html, read in November 2026) and the same on every machine.
type Statement struct {
	SQL     string
	Runs    int64
	Steps   int64 // of the virtual machine
	Scanned int64 // rows of tables and indexes that were read from one end to the other
}

func (s Statement) String() string {
	return fmt.Sprintf("%d steps, %d rows scanned, %d times: %s", s.Steps, s.Scanned, s.Runs,
		strings.Join(strings.Fields(s.SQL), " "))
}

var watchAll = sync.OnceValue(func() error {
	if code := C.watch_all(); code != 0 {
		return sqlite3.ErrNo(code)
	}
	return nil
})

// Watch counts what statements cost from here on, on every connection that this process opens later.
func Watch() error {
	Statements()
	return watchAll()
}

// Statements returns what has run to its end since it was called last, the most expensive first.
func Statements() []Statement {
	var n C.int
	taken := C.take(&n)
	defer C.free(unsafe.Pointer(taken))
	statements := make([]Statement, n)
	for i, s := range unsafe.Slice(taken, n) {
		statements[i] = Statement{C.GoString(s.sql), int64(s.runs), int64(s.steps), int64(s.scanned)}
		C.free(unsafe.Pointer(s.sql))
	}
	slices.SortFunc(statements, func(a, b Statement) int { return cmp.Compare(b.Steps, a.Steps) })
	return statements
}
