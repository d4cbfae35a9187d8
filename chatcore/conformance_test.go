package chatcore

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/migrate/migratetest"
)

func TestRoomIsMigratable(t *testing.T) {
	for _, least := range []int{0, 4} {
		t.Run(fmt.Sprintf("MinParticipants=%d", least), func(t *testing.T) {
			room, err := New(Config{MinParticipants: least, HistoryCount: 5})
			require.NoError(t, err)
			s := migratetest.Subject{New: room}
			do := func(session uint64, c command) {
				s.Commands = append(s.Commands, migrate.Command{Session: session, Key: keyOf(session), Body: c.encode()})
			}
			for i := range uint64(5) {
				do(i+1, command{Op: opJoin, Text: fmt.Sprintf("name%d", i), Addr: "h:1"})
				do(i+1, command{Op: opSay, Text: fmt.Sprintf("first words of %d", i)})
			}
			do(2, command{Op: opLeave})
			do(2, command{Op: opSay, Text: "refused"})
			do(7, command{Op: opJoin, Text: "name0"}) // taken
			do(2, command{Op: opJoin, Text: "again"})
			for i := range 6 {
				do(3, command{Op: opSay, Text: fmt.Sprint("line ", i)})
			}
			for _, q := range []query{{Op: queryHistory, After: 1 << 40}, {Op: queryWho}, {Op: queryFind, Name: "name3"}} {
				s.Queries = append(s.Queries, migrate.Query{Body: mustMarshal(&q)})
			}
			migratetest.Run(t, s)
		})
	}
}
