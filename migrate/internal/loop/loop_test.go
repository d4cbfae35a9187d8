package loop

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// owner records what a loop of numbers does. Its fields are written by one goroutine at a time, and read when none is at
// work.
type owner struct {
	Loop[int, bool]
	tasks sync.WaitGroup

	batches [][]int
	lent    []bool
	halted  []error

	mu      sync.Mutex // guards refused: any goroutine may call Refuse
	refused []int

	during func(batch []int) error // called by Handle
}

func (o *owner) Handle(batch []int, lent bool) error {
	o.batches = append(o.batches, append([]int(nil), batch...))
	o.lent = append(o.lent, lent)
	if o.during != nil {
		return o.during(batch)
	}
	return nil
}

func (o *owner) Refuse(items []int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused = append(o.refused, items...)
}

func (o *owner) Halted(err error) { o.halted = append(o.halted, err) }

func newOwner(held bool) *owner {
	o := new(owner)
	o.Init(o, &o.tasks, NewPool[int](), held)
	return o
}

func (o *owner) put(items ...int) {
	for _, it := range items {
		o.Put(it)
	}
}

// What comes before Work is one batch, and what comes during a batch is the next one.
func TestBatches(t *testing.T) {
	o := newOwner(false)
	o.put(1, 2, 3)
	require.Empty(t, o.batches, "Put does no work")
	require.Equal(t, 3, o.Len())
	o.during = func(batch []int) error {
		require.Zero(t, o.Len())
		if batch[0] == 1 {
			o.put(4, 5)
			o.Work(false) // the loop is at work: this must not enter it again
			require.Len(t, o.batches, 1)
			require.Equal(t, 2, o.Len())
		}
		return nil
	}
	o.Work(true)
	require.Equal(t, [][]int{{1, 2, 3}, {4, 5}}, o.batches)
	require.Equal(t, []bool{true, true}, o.lent)
	o.Work(true)
	require.Len(t, o.batches, 2, "nothing has come in")
	o.put(6)
	o.Work(false)
	require.Equal(t, []int{6}, o.batches[2])
	require.False(t, o.lent[2])
	require.Empty(t, o.refused)
	o.tasks.Wait()
}

// A batch that was handled must not keep its items, which the pool would keep alive.
func TestBatchIsCleared(t *testing.T) {
	o := newOwner(false)
	var kept []int
	o.during = func(batch []int) error { kept = batch; return nil }
	o.put(1, 2)
	o.Work(false)
	require.Equal(t, []int{0, 0}, kept)
}

// A lent goroutine returns after a few batches, and another one continues.
func TestLentRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(false)
		const n = lentRounds + 3
		rest := make(chan struct{})
		o.during = func(batch []int) error {
			if batch[0] > lentRounds {
				<-rest // blocks the caller of Work for ever if it is this one
			}
			if batch[0] < n {
				o.put(batch[0] + 1)
			}
			return nil
		}
		o.put(1)
		o.Work(true)
		synctest.Wait()
		require.Len(t, o.batches, lentRounds+1)
		o.Work(true) // must not start a second goroutine
		require.Len(t, o.batches, lentRounds+1)
		close(rest)
		o.tasks.Wait()
		require.Len(t, o.batches, n)
		for i, lent := range o.lent {
			require.Equal(t, i < lentRounds, lent, i)
		}
	})
}

// A call of Handle that takes long can be relieved of the loop: another goroutine, which is not lent, handles what comes in
// while the call runs, and the loop does not notice when it returns.
func TestRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(false)
		rest := make(chan struct{})
		returned := false
		o.during = func(batch []int) error {
			if batch[0] != 1 {
				return nil
			}
			o.put(2)
			o.Release()
			<-rest
			return ErrReleased
		}
		o.put(1)
		go func() { o.Work(true); returned = true }()
		synctest.Wait()
		require.Equal(t, [][]int{{1}, {2}}, o.batches)
		require.Equal(t, []bool{true, false}, o.lent)
		o.put(3)
		o.Work(true)
		require.Equal(t, []int{3}, o.batches[2])
		o.tasks.Wait() // not for the call that was relieved
		require.False(t, returned)
		o.put(4)
		close(rest)
		synctest.Wait()
		require.True(t, returned)
		require.Len(t, o.batches, 3, "4 waits for Work: whoever was relieved does not handle it")
		require.Equal(t, 1, o.Len())
		require.Empty(t, o.halted)
		o.Work(true)
		require.Equal(t, []int{4}, o.batches[3])
		o.tasks.Wait()
	})
}

// A loop that is stopped while a call of Handle is relieved of it refuses what comes in.
func TestStopAfterRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(false)
		o.during = func([]int) error {
			o.put(2)
			o.Stop()
			o.Release()
			synctest.Wait()
			require.Equal(t, []int{2}, o.refused)
			return ErrReleased
		}
		o.put(1)
		o.Work(true)
		o.tasks.Wait()
		require.Equal(t, [][]int{{1}}, o.batches)
		require.Empty(t, o.halted)
	})
}

// A held loop keeps what comes in until Begin.
func TestHeld(t *testing.T) {
	o := newOwner(true)
	o.put(1)
	o.Work(false)
	require.Empty(t, o.batches)
	require.Equal(t, 1, o.Len())
	o.Begin()
	require.Equal(t, [][]int{{1}}, o.batches)
	o.tasks.Wait()
	o.put(2)
	o.Work(false)
	require.Len(t, o.batches, 2)
}

// A held loop that is discarded refuses what has come in, and the wait group does not wait for it.
func TestDiscard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(true)
		o.put(1, 2)
		waited := false
		go func() { o.tasks.Wait(); waited = true }()
		synctest.Wait()
		require.False(t, waited, "a held loop counts as work")
		o.Discard()
		synctest.Wait()
		require.True(t, waited)
		require.Equal(t, []int{1, 2}, o.refused)
		o.put(3)
		o.Work(false)
		require.Equal(t, []int{1, 2, 3}, o.refused)
		require.Empty(t, o.batches)
	})
}

// An idle loop that is stopped refuses what waits and what comes later.
func TestStop(t *testing.T) {
	o := newOwner(false)
	o.put(1)
	o.Stop()
	require.Equal(t, []int{1}, o.refused)
	o.put(2)
	o.Work(false)
	require.Equal(t, []int{1, 2}, o.refused)
	o.Stop()
	require.Equal(t, []int{1, 2}, o.refused, "each item once")
	require.Empty(t, o.batches)
	require.Empty(t, o.halted)
	o.tasks.Wait()
}

// Stop does not interrupt a batch. The loop then refuses the next one, after the present one and not during it.
func TestStopDuringBatch(t *testing.T) {
	o := newOwner(false)
	o.during = func([]int) error {
		o.put(2)
		o.Stop()
		require.Empty(t, o.refused)
		return nil
	}
	o.put(1)
	o.Work(false)
	require.Equal(t, [][]int{{1}}, o.batches)
	require.Equal(t, []int{2}, o.refused)
	require.Empty(t, o.halted)
	o.tasks.Wait()
}

// An error ends the loop: what waits is refused, then Halted is called once.
func TestHalt(t *testing.T) {
	o := newOwner(false)
	broken := errors.New("broken")
	o.during = func([]int) error {
		o.put(2, 3)
		return broken
	}
	o.put(1)
	o.Work(true)
	require.Equal(t, []error{broken}, o.halted)
	require.Equal(t, []int{2, 3}, o.refused)
	o.put(4)
	o.Work(true)
	o.Stop()
	require.Equal(t, []int{2, 3, 4}, o.refused)
	require.Len(t, o.batches, 1)
	require.Len(t, o.halted, 1)
	o.tasks.Wait()
}

// From many goroutines each item is handled once, on one goroutine at a time, and those of one goroutine in their order.
func TestConcurrent(t *testing.T) {
	o := newOwner(false)
	const senders, each = 8, 500
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				o.Put(s*each + i)
				o.Work(true)
			}
		})
	}
	wg.Wait()
	o.tasks.Wait()
	var next [senders]int
	for _, batch := range o.batches {
		for _, it := range batch {
			require.Equal(t, next[it/each], it%each)
			next[it/each]++
		}
	}
	for _, n := range next {
		require.Equal(t, each, n)
	}
	require.Zero(t, o.Len())
}
