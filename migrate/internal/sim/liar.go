package sim

import (
	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// liar is a host that the resolver never names. It sends what it likes, in its own name: a connection has proved that.
var liar = resolver.Host{ID: "liar", Incarnation: 1, Addr: "liar:1", Key: transport.Key{1}}

// slander has the liar send one message to a process.
func (w *world) slander(p *proc) {
	one := func(vs ...uint64) uint64 { return vs[w.rng.IntN(len(vs))] }
	const most = 1<<53 - 1
	rec := p.core.Record()
	if w.chance(0.5) {
		rec = w.res.truth()
	}
	rec.Name, rec.Proposer = service, liar
	rec.Version = one(rec.Version, rec.Version+1, most)
	rec.Epoch = one(rec.Epoch, rec.Epoch+1, rec.Epoch+resolver.RestoreStep, most)
	rec.Loss = one(rec.Loss, rec.Loss, rec.Loss+1, most)
	rec.Generation = one(rec.Generation, rec.Generation, rec.Generation+1)
	switch w.rng.IntN(4) {
	case 0:
		rec.Active, rec.ISR = liar, []resolver.Host{liar}
	case 1:
		rec.Active, rec.ISR = liar, append([]resolver.Host{liar}, rec.ISR...)
	case 2:
		rec.Proposer = rec.Active // it has seen a record, or says so
	}
	m := core.Msg{
		Type: core.Type(1 + w.rng.IntN(int(core.MsgPolicy))), From: liar, Term: core.TermOf(rec), Flag: w.chance(0.5),
		Index: one(0, 1, p.core.Last(), p.core.Last()+1, most), Commit: one(0, p.core.Commit(), p.core.Last()+1, most),
		Round: one(0, 1, 2, most), Prev: one(0, 1, p.core.Last(), most), PrevEpoch: one(0, rec.Epoch, most),
	}
	if w.chance(0.3) {
		m.Term = p.core.Term()
	}
	if w.chance(0.7) {
		m.Record = &rec
	}
	if w.chance(0.3) {
		m.Entries = []core.Entry{{Index: one(1, p.core.Last(), p.core.Last()+1), Epoch: m.Term.Epoch, Kind: core.Command}}
	}
	w.tracef("the liar tells %s: %s %s", p.name(), m.Type, m.Term)
	p.event(core.Recv{Msg: m})
}
