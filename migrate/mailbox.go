package migrate

import (
	"sync/atomic"

	"github.com/roam-go/roam/migrate/internal/apply"
	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/loop"
	"github.com/roam-go/roam/migrate/internal/serve"
)

// item is work for the loop.
type item struct {
	kind itemKind
	ev   core.Event
	from *inbound
	req  *serve.Request
	// params are the decoded params of req.
	params  any
	size    int // of the message in ev, which arrived from a host on from
	fn      func()
	drop    func()
	applier *apply.Applier
	err     error
}

type itemKind uint8

const (
	itemStart   itemKind = iota + 1 // start to participate
	itemEvent                       // step ev
	itemClient                      // req arrived from a client
	itemGone                        // from is closed
	itemFunc                        // call fn, or drop if the loop has ended
	itemApplied                     // applier has results
	itemHalt                        // halt the service on this host, because of err
	itemTick                        // the timer has fired
)

var inboxes = loop.NewPool[item]()

// mailbox queues items for the service's loop, and chooses the goroutines that work for it.
type mailbox struct {
	loop     loop.Loop[item]
	appliers *apply.Executor               // of the node
	starting atomic.Pointer[apply.Applier] // to be run by the goroutine that works for the loop
	lent     bool                          // that goroutine was lent and can continue with an applier; belongs to the loop
}

// post queues an item for the loop. If the loop is idle, the caller's goroutine does the work. The caller must not hold a lock.
func (m *mailbox) post(it item) {
	m.loop.Put(it)
	m.work(nil)
}

// call calls f on the loop.
func (m *mailbox) call(f func()) { m.post(item{kind: itemFunc, fn: f}) }

// work runs the loop on the caller's goroutine if items are queued and the loop is idle. If the goroutine reads c, it then applies
// the committed entries. If c is nil, another goroutine does that.
func (m *mailbox) work(c apply.Lender) {
	m.loop.Work(c != nil)
	if c != nil {
		if a := m.starting.Swap(nil); a != nil {
			m.appliers.Lend(a, c)
		}
	}
}

// start leaves a to the goroutine that works for the loop, if that was lent, has nothing else to do here, and the service is quick.
func (m *mailbox) start(a *apply.Applier) {
	if m.lent && !a.Slow() && m.starting.CompareAndSwap(nil, a) {
		return
	}
	m.appliers.Go(a)
}
