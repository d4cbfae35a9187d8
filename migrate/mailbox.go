package migrate

import (
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

// mailbox queues items for the service's loop.
type mailbox struct {
	loop loop.Loop[item, apply.Lender]
}

// post queues an item for the loop. If the loop is idle, the caller's goroutine does the work. The caller must not hold a lock.
func (m *mailbox) post(it item) {
	m.loop.Put(it)
	m.work(nil)
}

// call calls f on the loop.
func (m *mailbox) call(f func()) { m.post(item{kind: itemFunc, fn: f}) }

// work runs the loop on the caller's goroutine if items are queued and the loop is idle. If the goroutine reads c, it also
// applies the committed entries of a quick service. If c is nil, another goroutine does that.
func (m *mailbox) work(c apply.Lender) { m.loop.Work(c) }
