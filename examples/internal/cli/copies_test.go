package cli

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
)

func TestCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			mu      sync.Mutex // guards texts
			texts   []string
			present atomic.Bool
		)
		c := &copies{service: "x.org", others: present.Load, say: func(s string) {
			mu.Lock()
			defer mu.Unlock()
			texts = append(texts, s)
		}}
		said := func() []string {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(texts)
		}
		defer c.close()
		become := func(role migrate.Role, holders int) {
			c.changed(migrate.Status{Role: role, Record: resolver.Record{ISR: make([]resolver.Host, holders)}})
		}
		const alone = "no other host holds a copy of x.org: if this process fails, its messages are lost"

		// The first host of a chat is alone until others come.
		become(migrate.Active, 1)
		time.Sleep(time.Hour)
		require.Empty(t, said())
		present.Store(true)
		time.Sleep(61 * time.Second)
		require.Equal(t, []string{alone}, said())
		become(migrate.Active, 2)
		require.Equal(t, "another host holds a copy of x.org again", said()[1])

		// A copy that is lost, and replaced soon or not.
		present.Store(false)
		become(migrate.Active, 1)
		time.Sleep(aloneAfter / 2)
		become(migrate.Active, 2)
		time.Sleep(61 * time.Second)
		require.Len(t, said(), 2)
		become(migrate.Active, 1)
		time.Sleep(61 * time.Second)
		require.Equal(t, alone, said()[2])

		// Another host serves.
		become(migrate.Standby, 1)
		time.Sleep(61 * time.Second)
		require.Len(t, said(), 3)
	})
}
