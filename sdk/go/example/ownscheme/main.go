// A service with a scheme of its own, all that a plugin can do about it in one place:
//
//   - it signs what it sends, and what it receives is to be signed: x-acme-signature: t=TIME,v1=HASH, where HASH is the HMAC-SHA-256 of
//     TIME.BODY in hex, and TIME is in seconds;
//   - before it sends anything it asks for the challenge that it posts;
//   - it numbers its orders and may send one twice;
//   - it answers 200 whatever happened, and says in the body what did.
package main

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tidegate/plugin"
	"tidegate/plugin/filter"
	"tidegate/plugin/judge"
	"tidegate/plugin/respond"
	"tidegate/plugin/sign"
	"tidegate/plugin/verify"
)

const (
	signatureHeader = "x-acme-signature"
	// secret is its name in the source's, or the destination's, configuration.
	secret = "acme"
	// tolerance is how far a signature's time may be from now.
	tolerance = 5 * time.Minute
	// remembered is how long an order is.
	remembered = 24 * time.Hour
)

func init() {
	verify.Export(check)
	respond.Export(answer)
	filter.Export(isNew)
	sign.Export(signature)
	judge.Export(outcome)
}

func main() {}

func check(arrival *plugin.Arrival, host plugin.Host) (plugin.Verification, error) {
	header, found := arrival.Request.Header(signatureHeader)
	if !found {
		return plugin.Reject("there is no signature"), nil
	}
	parts := make(map[string]string)
	for part := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(part, "=")
		parts[name] = value
	}
	if parts["t"] == "" || parts["v1"] == "" {
		return plugin.Reject("the signature has no t or no v1"), nil
	}
	seconds, err := strconv.ParseInt(parts["t"], 10, 64)
	if err != nil {
		return plugin.Reject("the signature's time is no number"), nil
	}
	if distance := arrival.ReceivedAt.Sub(time.Unix(seconds, 0)); distance.Abs() >= tolerance+time.Second {
		return plugin.Reject("the signature is too old, or from the future"), nil
	}
	hash, _ := hex.DecodeString(parts["v1"])
	right, found := host.HMACVerify(plugin.SHA256, secret, signed(parts["t"], arrival.Request.Body), hash)
	if !found {
		return plugin.Verification{}, plugin.Never("no-secret", "the source has no secret `"+secret+"`")
	}
	if !right {
		return plugin.Reject("the signature is not this body's"), nil
	}
	return plugin.Accept(), nil
}

func answer(arrival *plugin.Arrival, host plugin.Host) (*plugin.Response, error) {
	if arrival.Request.Path != "/handshake" {
		return nil, nil
	}
	var body struct{ Challenge *string }
	if err := arrival.Request.JSON(&body); err != nil || body.Challenge == nil {
		return nil, err
	}
	return plugin.TextResponse(200, *body.Challenge), nil
}

// isNew drops an order that was seen before.
func isNew(event *plugin.Event, host plugin.Host) (bool, error) {
	var body struct{ Order *uint64 }
	if err := event.Request.JSON(&body); err != nil || body.Order == nil {
		return true, err
	}
	first, err := host.KV().Add(fmt.Sprintf("order/%d", *body.Order), []byte(event.ID), remembered)
	if err != nil {
		return false, err
	}
	by := int64(0)
	if first {
		by = 1
	}
	seen, err := host.KV().Increment("orders", by, 0)
	if err != nil {
		return false, err
	}
	host.Log(plugin.Info, fmt.Sprintf("%d orders so far", seen))
	return first, nil
}

func signature(attempt *plugin.Attempt, host plugin.Host) ([]plugin.Header, error) {
	at := strconv.FormatInt(attempt.StartedAt.Unix(), 10)
	hash, found := host.HMAC(plugin.SHA256, secret, signed(at, attempt.Request.Body))
	if !found {
		return nil, plugin.Never("no-secret", "the destination has no secret `"+secret+"`")
	}
	return []plugin.Header{{Name: signatureHeader, Value: []byte("t=" + at + ",v1=" + hex.EncodeToString(hash))}}, nil
}

func outcome(_ *plugin.Attempt, response *plugin.Response, host plugin.Host) (plugin.Judgement, error) {
	if response.Status != 200 {
		return plugin.Judgement{}, nil
	}
	var body struct {
		Result string
		WaitMS uint32 `json:"wait_ms"`
		Why    *string
	}
	if response.JSON(&body) != nil {
		return plugin.Delivered(), nil
	}
	switch body.Result {
	case "busy":
		return plugin.RetryAfter(time.Duration(body.WaitMS) * time.Millisecond), nil
	case "refused":
		if body.Why == nil {
			return plugin.DeadLetter("no reason given"), nil
		}
		return plugin.DeadLetter(*body.Why), nil
	}
	return plugin.Delivered(), nil
}

// signed is what is.
func signed(at string, body []byte) []byte {
	return append([]byte(at+"."), body...)
}
