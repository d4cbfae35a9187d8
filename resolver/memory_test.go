package resolver

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, ctx := NewMemory(), t.Context()
		_, err := m.Get(ctx, "backend.com")
		require.ErrorIs(t, err, ErrNotFound)
		next := Record{Name: "backend.com", Epoch: 1, Active: hostA, ISR: []Host{hostA}, Proposer: hostA, Nonce: 1}
		go func() {
			time.Sleep(time.Second)
			_, err := m.CompareAndSwap(ctx, 0, next)
			assert.NoError(t, err)
		}()
		r, err := m.Watch(ctx, "backend.com", 0)
		require.NoError(t, err)
		require.EqualValues(t, 1, r.Version)
		_, err = m.CompareAndSwap(ctx, 0, next)
		require.NoError(t, err)
		next.Nonce++
		r, err = m.CompareAndSwap(ctx, 0, next)
		require.ErrorIs(t, err, ErrConflict)
		require.EqualValues(t, 1, r.Version)
		require.NoError(t, m.Announce(ctx, hostA, []string{"backend.com"}, time.Second))
		hs, err := m.Hosts(ctx, "backend.com")
		require.NoError(t, err)
		require.Equal(t, []Host{hostA}, hs)
		time.Sleep(time.Second)
		hs, err = m.Hosts(ctx, "backend.com")
		require.NoError(t, err)
		require.Empty(t, hs)
		ended, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err = m.Watch(ended, "backend.com", 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Empty(t, m.store.watches, "a watch that ended must be forgotten")
	})
}
