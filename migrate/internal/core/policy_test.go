package core

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

// policyPair is two hosts, a and b, whose messages arrive at once. Each restores snapshots at once.
type policyPair struct {
	t       *testing.T
	now     time.Duration
	cores   map[string]*Core
	rec     resolver.Record
	reports map[string][]string // by host
	sent    int                 // messages of type MsgPolicy
}

func newPolicyPair(t *testing.T, a, b Config) *policyPair {
	p := &policyPair{t: t, now: time.Second, cores: map[string]*Core{}, reports: map[string][]string{}}
	for self, cfg := range map[resolver.Host]Config{storedA: a, storedB: b} {
		cfg.Name = "svc"
		p.cores[self.ID] = New(self, cfg)
	}
	return p
}

func (p *policyPair) step(host string, ev Event) {
	p.cores[host].Step(p.now, ev)
	p.ready(host)
}

// ready does the work of a host.
func (p *policyPair) ready(host string) {
	c := p.cores[host]
	r := c.Ready()
	require.NoError(p.t, c.Err())
	for _, err := range r.Reports {
		p.reports[host] = append(p.reports[host], err.Error())
	}
	for _, m := range r.Msgs {
		if m.Msg.Type == MsgPolicy {
			p.sent++
		}
		b, err := AppendMsg(nil, m.Msg)
		require.NoError(p.t, err)
		msg, err := ReadMsg(b)
		require.NoError(p.t, err)
		if p.cores[m.To.ID] != nil {
			msg.From = c.self
			p.step(m.To.ID, Recv{msg})
		}
	}
	if n := len(r.Committed); n > 0 {
		c.Applied(p.now, r.Committed[n-1].Index)
	}
	if r.CAS != nil {
		require.Equal(p.t, p.rec.Version, r.CAS.Expect)
		p.rec = r.CAS.Next
		p.rec.Generation, p.rec.Version = 1, r.CAS.Expect+1
		p.step(host, CASDone{Nonce: p.rec.Nonce, Record: p.rec, Outcome: CASOK})
	}
	if r.Get {
		p.step(host, Got{Record: p.rec})
	}
	if r.Seek {
		var hosts []resolver.Host
		for _, o := range p.cores {
			if o != nil && o != c {
				hosts = append(hosts, o.self)
			}
		}
		p.step(host, Candidates{Hosts: hosts})
	}
	for _, to := range r.Snapshots {
		e, _ := c.EpochAt(c.applied)
		p.step(host, Captured{To: to, ID: 1, Index: c.applied, Epoch: e})
	}
	if f := r.Fetch; f != nil {
		p.step(host, Restored{ID: f.ID, From: f.From, OK: true})
	}
	for _, m := range r.Moves {
		if m.Stage == MoveInSync {
			p.step(host, Transfer{})
		}
	}
}

// run lets time pass until ok.
func (p *policyPair) run(ok func() bool) {
	for end := p.now + 20*time.Second; !ok(); p.now += 10 * time.Millisecond {
		require.Less(p.t, p.now, end)
		for _, id := range []string{"a", "b"} {
			if p.cores[id] != nil {
				p.step(id, Tick{})
			}
		}
	}
}

func (p *policyPair) serves(host string, members int) func() bool {
	return func() bool { return p.cores[host].Role() == Serving && len(p.rec.ISR) == members }
}

// join makes a active and b its standby.
func (p *policyPair) join() {
	p.step("a", Create{})
	p.run(p.serves("a", 2))
}

// Two hosts with different policies report it when one joins the other, and again, on the new active host only, at each
// handoff and failover.
func TestPolicyDiffers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		a, b  Config
		wants []string // in both reports
	}{
		{"MinInSync", Config{Standbys: 1, MinInSync: 2}, Config{Standbys: 1}, []string{
			"Policy.MinInSync is 2 on host a and 1 on host b",
			"while host b is active, the minimum number of hosts that hold an acknowledged command is 1, not 2",
		}},
		{"Copies", Config{Standbys: 1}, Config{Standbys: 2}, []string{
			"Policy.Copies is 2 on host a and 3 on host b", "while host a is active, the wanted number of copies is 2, not 3",
		}},
		{"both", Config{Standbys: 1}, Config{Standbys: 2, MinInSync: 2}, []string{"Policy.Copies", "Policy.MinInSync"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPolicyPair(t, tt.a, tt.b)
			p.join()
			p.run(func() bool { return p.now > 11*time.Second })
			require.Len(t, p.reports["a"], 1)
			require.Len(t, p.reports["b"], 1)
			t.Log(p.reports["a"][0])
			require.Contains(t, p.reports["a"][0], tt.wants[0])
			require.Contains(t, p.reports["a"][0], tt.wants[1])
			require.Contains(t, p.reports["b"][0], tt.wants[1])

			p.step("a", Handoff{Target: storedB})
			p.run(p.serves("b", 2))
			require.Len(t, p.reports["a"], 1)
			require.Len(t, p.reports["b"], 2)
			require.Contains(t, p.reports["b"][1], "host b, now active after host a, has another policy: ")
			require.Contains(t, p.reports["b"][1], tt.wants[1])

			p.cores["b"] = nil // it crashes
			p.run(func() bool { return p.cores["a"].Role().Active() })
			require.Len(t, p.reports["a"], 2)
			require.Contains(t, p.reports["a"][1], "host a, now active after host b, has another policy: ")
		})
	}
}

// Equal policies, and those that do not differ in their effect, take no message and no report.
func TestPolicyEqual(t *testing.T) {
	p := newPolicyPair(t, Config{Standbys: 1}, Config{Standbys: 1, MinInSync: 1})
	p.join()
	p.step("a", Handoff{Target: storedB})
	p.run(p.serves("b", 2))
	p.cores["b"] = nil
	p.run(p.serves("a", 1))
	require.Empty(t, p.reports)
	require.Zero(t, p.sent)
}

// A host reports each policy of another one once, and one that has changed again. An older version sends no policy.
func TestPolicyOnce(t *testing.T) {
	c := New(storedB, Config{Name: "svc", Standbys: 1})
	rec := storedRecord(1, 1, storedA)
	c.Step(0, Told{rec})
	reports := func(ty Type, copies, minInSync uint64) (reports, answers int) {
		c.Step(0, Recv{Msg{Type: ty, From: storedA, Term: Term{0, 1}, Record: &rec, Index: 1, Prev: copies, PrevEpoch: minInSync}})
		r := c.Ready()
		for _, m := range r.Msgs {
			if m.Msg.Type == MsgPolicy {
				require.Equal(t, storedA, m.To)
				require.Equal(t, Policy{2, 1}, Policy{m.Msg.Prev, m.Msg.PrevEpoch})
				answers++
			}
		}
		return len(r.Reports), answers
	}
	for _, tt := range []struct {
		ty                Type
		copies, minInSync uint64
		reports, answers  int
	}{
		{MsgInvite, 0, 0, 0, 0},
		{MsgRecord, 0, 0, 0, 0},
		{MsgInvite, 2, 1, 0, 0},
		{MsgRecord, 2, 1, 0, 0},
		{MsgInvite, 3, 1, 1, 1},
		{MsgInvite, 3, 1, 0, 1}, // the answer may have been lost
		{MsgRecord, 3, 1, 0, 1},
		{MsgRecord, 3, 2, 1, 1},
		{MsgRecord, 2, 1, 0, 0}, // it has restarted with the same policy
		{MsgRecord, 3, 2, 1, 1},
		{MsgTransfer, 4, 1, 0, 0},
	} {
		r, a := reports(tt.ty, tt.copies, tt.minInSync)
		require.Equal(t, [2]int{tt.reports, tt.answers}, [2]int{r, a}, "%+v", tt)
	}
}

// The memory for policies of other hosts is bounded.
func TestPolicyBounded(t *testing.T) {
	c, rec := activePair(t)
	for n := range uint64(3 * maxDifferences) {
		from := storedB
		from.ID += string(rune('0' + n))
		c.addPeer(from)
	}
	c.Ready()
	for n := range uint64(3 * maxDifferences) {
		from := storedB
		from.ID += string(rune('0' + n))
		c.Step(0, Recv{Msg{Type: MsgPolicy, From: from, Term: TermOf(rec), Prev: 7, PrevEpoch: 1}})
	}
	require.Len(t, c.differences, maxDifferences)
	require.Len(t, c.Ready().Reports, 3*maxDifferences)
	c.Step(0, Recv{Msg{Type: MsgPolicy, From: resolver.Host{ID: "stranger", Incarnation: 1}, Term: TermOf(rec), Prev: 7, PrevEpoch: 1}})
	require.Empty(t, c.Ready().Reports, "it is no host of this service")
}

// A member whose connection was broken may have missed the policy.
func TestPolicyAgainAfterReset(t *testing.T) {
	c, _ := activePair(t)
	c.Step(0, PeerReset{Host: storedB})
	var got []Policy
	for _, m := range c.Ready().Msgs {
		if m.Msg.Type == MsgRecord {
			got = append(got, Policy{m.Msg.Prev, m.Msg.PrevEpoch})
		}
	}
	require.Equal(t, []Policy{{2, 1}}, got)
}
