package wire

import (
	"time"

	"github.com/roam-go/roam/resolver"
)

// The messages between clients and hosts, as MessagePack arrays. Clients call the first group; hosts notify clients with the
// second. A host that does not serve the name answers [CodeNotActive] with its newest record as Data.
const (
	MethodOpen    = "roam.open"    // OpenParams -> OpenResult
	MethodDo      = "roam.do"      // DoParams -> DoResult; calls of one session arrive in the order of Seq
	MethodQuery   = "roam.query"   // QueryParams -> QueryResult
	MethodListen  = "roam.listen"  // ListenParams -> ListenResult, then MethodEvents
	MethodLeave   = "roam.leave"   // LeaveParams -> nil: ends the session
	MethodReady   = "roam.ready"   // ReadyParams, a notification to the present host: the connection to the next one is up
	MethodUnready = "roam.unready" // UnreadyParams, a notification to the present host: the next one cannot be reached
	MethodPark    = "roam.park"    // ParkParams -> nil, to the next host: this connection may soon carry the session

	MethodEvents  = "roam.events"  // EventsParams
	MethodPrepare = "roam.prepare" // PrepareParams: connect to the next host, at a random moment of the spread
	MethodMoved   = "roam.moved"   // MovedParams: the record changed; the session continues at record.Active
	MethodSpread  = "roam.spread"  // SpreadParams: how to reconnect if the host is lost
	MethodHeld    = "roam.held"    // the host is alive, and reads again when it has answered some requests
)

// ReadyTimeout is the least time that a host gives its clients to connect to the next one. A client reports that it could not
// a little earlier.
const ReadyTimeout = 3 * time.Second

// OpenParams opens a session, or takes it up again on this connection (after a move, after a broken connection): opening
// twice is harmless. Session is a random number below 2^53 that the client draws.
type OpenParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service string
	Session uint64
	// Resume is true when the client knows the session to exist: a host that does not know it answers
	// CodeSessionExpired and never makes a fresh one.
	Resume bool
	// Loss and Epoch are the highest that the client has seen.
	Loss, Epoch uint64
}

type OpenResult struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Loss, Epoch uint64
	// NextEvent is the number that the next event will have.
	NextEvent uint64
	// SpreadMS is as in SpreadParams.
	SpreadMS int64
}

// DoParams is a command. Low is the lowest Seq whose reply the client still wants: lower ones are forgotten.
type DoParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service      string
	Session, Seq uint64
	Low          uint64
	Body         []byte
}

// DoResult is the reply of a committed command: Index is its place in the log, Replicas the number of hosts that held it
// when it was acknowledged. An error of the service itself arrives as the call's error, with AppliedData as its Data.
type DoResult struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Index    uint64
	Epoch    uint64
	Replicas uint32
	Reply    []byte
}

// AppliedData is the Data of an error that is the reply of a command with a place in the log: it shows the client that the
// command was executed. An error without it is final only with CodeReplyGone, which means that the place is no longer known,
// and with CodeSessionExpired, CodeForbidden, CodeTooLarge or CodeStateLost, which mean that the command has no place. After
// any other error the client sends the command again.
type AppliedData struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Index    uint64
	Epoch    uint64
	Replicas uint32
	// Data is the Data of the service's own error.
	Data []byte
}

type QueryParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service string
	Session uint64
	Body    []byte
}

type QueryResult struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Index uint64
	Epoch uint64
	Reply []byte
}

// ListenParams asks for the events from number From on (0: those after now). A second listen on the same connection and
// session replaces the first.
type ListenParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service string
	Session uint64
	From    uint64
}

// ListenResult answers ListenParams: the first event to come is Next. If that is higher than From, the events between are
// gone.
type ListenResult struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Next uint64
}

type LeaveParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service string
	Session uint64
}

type ReadyParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service string
	Session uint64
}

type UnreadyParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service string
	Session uint64
	Next    string // the next host's ID
	Reason  string
}

type ParkParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service string
	Session uint64
}

// EventsParams carries events First, First+1, ...: Times and Bodies have the same length. First is higher than the number
// expected when the client was too slow and events are gone.
type EventsParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service     string
	Loss, Epoch uint64
	First       uint64
	Times       []int64
	Bodies      [][]byte
}

type PrepareParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service string
	Next    resolver.Host
	// SpreadMS is the length of the spread in milliseconds.
	SpreadMS int64
}

// SpreadParams is sent when there are many more clients than before. A client that loses the host without notice of a move,
// and has no request waiting, reconnects at a random moment of the spread, which is in milliseconds.
type SpreadParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service  string
	SpreadMS int64
}

// MovedParams is sent by the host that stops serving, and by the next one on the connections parked there.
type MovedParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service string
	Record  resolver.Record
}

// The messages between hosts. A host dials one connection to each other host that it sends messages to, for all services.
// Messages are notifications; the other host answers on its own connection, or on this one if it cannot connect. An inquiry
// has a connection of its own.
const (
	MethodHello     = "roam.host"      // HostHello -> HostHello: the calling host, and the answering one
	MethodLink      = "roam.link"      // the connection is for messages: the answering host may send them on it as well
	MethodMsg       = "roam.msg"       // MsgParams: a message of the protocol, see core.AppendMsg
	MethodUnreached = "roam.unreached" // UnreachedParams: the answering host could not connect to the calling one
	MethodAsk       = "roam.ask"       // AskParams -> AskResult: an inquiry, after a hello
)

type HostHello struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Host resolver.Host
}

type UnreachedParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Reason string
}

type MsgParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service string
	Msg     []byte
}

type AskParams struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Service string
}

// AskResult is what the answering host knows about a service: a core.Answer.
type AskResult struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	// Hosted is false if the host does not host the service; then the other fields are zero.
	Hosted bool
	// Loss and Epoch are the highest term that the host has seen, and Record is the newest record that it knows, or nil.
	Loss, Epoch uint64
	Record      *resolver.Record
	// Copy is true if the host holds a copy that may count, Active if it is active, Pending if it waits for an answer of the
	// resolver. LastIndex and LastEpoch are those of the last entry of its log.
	Copy, Active, Pending bool
	LastIndex, LastEpoch  uint64
	// CopyLoss is the Loss of its copy, even of one that does not count. CommitIndex and CommitEpoch name the last entry of it
	// that the host knows to be committed.
	CopyLoss, CommitIndex, CommitEpoch uint64
}
