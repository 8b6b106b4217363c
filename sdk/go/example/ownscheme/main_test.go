package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"tidegate/plugin"
	"tidegate/plugin/plugintest"
)

func newHost() *plugintest.Host {
	return &plugintest.Host{Signing: map[string]string{"acme": "key"}}
}

func TestItVerifiesWhatItSignedItself(t *testing.T) {
	headers, err := signature(plugintest.Attempt("{}"), newHost())
	if err != nil || len(headers) != 1 || headers[0].Name != signatureHeader {
		t.Fatal(headers, err)
	}
	own := string(headers[0].Value)
	if verified, err := check(plugintest.Arrival("{}", signatureHeader, own), newHost()); err != nil || !verified.Accepted {
		t.Error(verified, err)
	}
	for _, wrong := range []string{
		"", "t=1700000000", "t=x,v1=00", "t=1700000000,v1=00", "t=1600000000,v1=00", strings.Replace(own, "t=17", "t=16", 1),
	} {
		if verified, err := check(plugintest.Arrival("{}", signatureHeader, wrong), newHost()); err != nil || verified.Accepted || verified.Reason == "" {
			t.Error(wrong, verified, err)
		}
	}
	var failure *plugin.Failure
	_, err = check(plugintest.Arrival("{}", signatureHeader, own), &plugintest.Host{})
	if !errors.As(err, &failure) || failure.Code != "no-secret" {
		t.Error(err)
	}
}

func TestItAnswersTheHandshakeAndNothingElse(t *testing.T) {
	handshake := plugintest.Arrival(`{"challenge": "abc"}`)
	if response, err := answer(handshake, newHost()); err != nil || response != nil {
		t.Error(response, err)
	}
	handshake.Request.Path = "/handshake"
	response, err := answer(handshake, newHost())
	if err != nil || response.Status != 200 || string(response.Body) != "abc" {
		t.Error(response, err)
	}
}

func TestItDropsAnOrderThatWasSeenBefore(t *testing.T) {
	host := newHost()
	var kept []bool
	for _, order := range []string{"7", "8", "7"} {
		one, err := isNew(plugintest.Event(`{"order": `+order+`}`), host)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, one)
	}
	if !slices.Equal(kept, []bool{true, true, false}) || host.Table["orders"].Value != "2" || host.Table["order/7"].TTL != remembered {
		t.Error(kept, host.Table)
	}
}

func TestItReadsWhatHappenedOutOfTheBody(t *testing.T) {
	for body, expected := range map[string]plugin.Judgement{
		`{"result": "busy", "wait_ms": 50}`:             plugin.RetryAfter(50 * time.Millisecond),
		`{"result": "busy"}`:                            plugin.RetryAfter(0),
		`{"result": "refused", "why": "no such order"}`: plugin.DeadLetter("no such order"),
		"ok": plugin.Delivered(),
	} {
		if got, err := outcome(plugintest.Attempt("{}"), plugin.TextResponse(200, body), newHost()); err != nil || got != expected {
			t.Error(body, got, err)
		}
	}
	if got, err := outcome(plugintest.Attempt("{}"), plugin.TextResponse(500, ""), newHost()); err != nil || got != (plugin.Judgement{}) {
		t.Error(got, err)
	}
}
