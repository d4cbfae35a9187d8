package chatcore

import (
	"time"

	"github.com/roam-go/roam/transport"
)

const (
	maxPins        = 10_000           // pinned keys
	maxInboundPins = maxPins / 2      // inbound messages pin no key beyond this number of pinned keys
	pinBurst       = 32               // keys that inbound messages can pin at once
	pinInterval    = 10 * time.Second // between further keys that inbound messages pin
)

// pins holds the first key of each name, by nameID. Only [Client.Forget] removes a key: if a new key could evict another,
// somebody with many names could evict a key and then take that name. Access is guarded by private.mu.
type pins struct {
	keys    map[string]transport.Key
	changed map[string]bool // pinned names whose participant in the room has another key
	paid    time.Time       // inbound pins are paid until then; see allowInbound
}

func newPins() pins {
	return pins{keys: make(map[string]transport.Key), changed: make(map[string]bool)}
}

// allowInbound reports whether an inbound message may pin another key now, and counts it.
func (p *pins) allowInbound(now time.Time) bool {
	if full := now.Add(-(pinBurst - 1) * pinInterval); p.paid.Before(full) {
		p.paid = full
	}
	if len(p.keys) >= maxInboundPins || p.paid.After(now) {
		return false
	}
	p.paid = p.paid.Add(pinInterval)
	return true
}

// differs reports whether a key is pinned for the name and key is another one.
func (p *pins) differs(id string, key transport.Key) bool {
	first, ok := p.keys[id]
	return ok && first != key
}

func (p *pins) forget(id string) {
	delete(p.keys, id)
	delete(p.changed, id)
}

// checkKey compares a participant's key with the pinned key of the name, and pins the first key of each name. known is false
// if no key is pinned: the participant has none, or inbound messages have pinned too many keys.
func (p *private) checkKey(who Participant, inbound bool) (known bool, err error) {
	id := nameID(who.Name)
	p.mu.Lock()
	defer p.mu.Unlock()
	first, ok := p.pins.keys[id]
	switch {
	case ok && first != who.Key:
		return false, transport.Errorf(CodePeerKey, "chat: the key of %q has changed from %v to %v: another user may have taken "+
			"the name; if the change is expected, forget the old key", who.Name, first, who.Key)
	case ok:
		return true, nil
	case who.Key.IsZero():
		return false, nil
	case inbound && !p.pins.allowInbound(time.Now()):
		return false, nil
	case len(p.pins.keys) >= maxPins:
		return false, transport.Errorf(CodePeerKey, "chat: the key of %q cannot be pinned: this client has pinned %d keys; "+
			"forget one that is no longer needed", who.Name, maxPins)
	}
	p.pins.keys[id] = who.Key
	return true, nil
}

// noteKey reports whether a participant's key, as the room has answered it, differs from the pinned key of the name. If so,
// the name's messages in the room are marked until it joins with the pinned key: the answer may be ahead of the events.
func (p *private) noteKey(name string, key transport.Key) (differs bool) {
	id := nameID(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	if differs = p.pins.differs(id, key); differs {
		p.pins.changed[id] = true
	}
	return differs
}

// newKey reports whether an event is from a participant whose key differs from the pinned key of the name. It must see the
// events in order.
func (p *private) newKey(e *event) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pins.keys) == 0 || e.Kind != KindJoined && len(p.pins.changed) == 0 {
		return false // without folding the name
	}
	id := nameID(e.From)
	if e.Kind == KindJoined {
		if p.pins.differs(id, e.Key) {
			p.pins.changed[id] = true
		} else {
			delete(p.pins.changed, id)
		}
	}
	return p.pins.changed[id]
}

// recheckKeys queries the keys of all participants after events were lost, among which a participant may have joined with
// another key. One query at a time is in flight.
func (p *private) recheckKeys() {
	p.mu.Lock()
	none := len(p.pins.keys) == 0
	p.mu.Unlock()
	if none || p.gaps.Add(1) > 1 {
		return
	}
	p.start(func() {
		for {
			seen := p.gaps.Load()
			if _, err := p.c.Who(p.c.ctx); err != nil && p.c.ctx.Err() == nil {
				p.c.cfg.Logger.Warn("chat: cannot compare the keys of the participants after a gap", "service", p.c.service,
					"err", err)
			}
			if p.gaps.CompareAndSwap(seen, 0) {
				return
			}
			select {
			case <-time.After(time.Second):
			case <-p.c.ctx.Done():
				return
			}
		}
	})
}
