package hooks

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A queue runs functions in order, drops the oldest above its limit, and runs none after Close.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			wg  sync.WaitGroup
			got []int
		)
		q := New(2, wg.Go)
		call := func(i int) {
			q.Call(func() {
				time.Sleep(time.Second)
				got = append(got, i)
			})
		}
		call(1)
		synctest.Wait() // it runs
		for i := 2; i <= 4; i++ {
			call(i)
		}
		wg.Wait()
		require.Equal(t, []int{1, 3, 4}, got)

		call(5)
		synctest.Wait()
		call(6)
		q.Close()
		call(7)
		wg.Wait()
		require.Equal(t, []int{1, 3, 4, 5}, got)
	})
}

// A queue without a limit drops nothing.
func TestQueueUnlimited(t *testing.T) {
	var wg sync.WaitGroup
	hold := make(chan struct{})
	n := 0
	q := New(0, wg.Go)
	for range 5000 {
		q.Call(func() {
			<-hold
			n++
		})
	}
	close(hold)
	wg.Wait()
	require.Equal(t, 5000, n)
}
