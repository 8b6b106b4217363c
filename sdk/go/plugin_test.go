package plugin_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"tidegate/plugin"
	"tidegate/plugin/plugintest"
)

func equal(t *testing.T, got, expected any) {
	t.Helper()
	if !reflect.DeepEqual(got, expected) {
		t.Errorf("got %#v, expected %#v", got, expected)
	}
}

func TestRepeatedHeadersAreFoundInOrderWhateverTheCase(t *testing.T) {
	request := &plugintest.Event("", "X-A", "1", "x-b", "ü", "x-a", "\xff").Request
	equal(t, request.HeaderValues("X-a"), [][]byte{[]byte("1"), {0xff}})
	text, found := request.Header("X-B")
	equal(t, text, "ü")
	equal(t, found, true)
	_, found = request.Header("x-c")
	equal(t, found, false)
	_, found = plugintest.Event("", "x-a", "\xff").Request.Header("x-a")
	equal(t, found, false)
}

func TestABodyThatIsNotJSONFailsForGood(t *testing.T) {
	for _, body := range []string{"nope", "", "\"\xff\""} {
		var failure *plugin.Failure
		var value any
		if !errors.As(plugintest.Event(body).Request.JSON(&value), &failure) {
			t.Fatal(body)
		}
		equal(t, failure.Code, "not-json")
		equal(t, failure.Retry, plugin.RetryNever)
	}
}

func TestAnOutputSaysWhatChanges(t *testing.T) {
	output := plugin.NewOutput().Method("PUT").Path("/x").Query("a=1").Header("x-a", "1").AppendHeader("x-b", "\xff")
	changes := output.RemoveHeader("x-c").ClearHeaders().JSON(map[string]string{"é": "<"}).Changes()
	equal(t, *changes.Method, "PUT")
	equal(t, *changes.Path, "/x")
	equal(t, changes.Query, plugin.SetQuery)
	equal(t, changes.NewQuery, "a=1")
	equal(t, changes.Headers, []plugin.HeaderChange{
		{Kind: plugin.Set, Name: "x-a", Value: "1"},
		{Kind: plugin.Append, Name: "x-b", Value: "\xff"},
		{Kind: plugin.Remove, Name: "x-c"},
		{Kind: plugin.Clear},
		{Kind: plugin.Set, Name: "content-type", Value: "application/json"},
	})
	equal(t, string(changes.Body), `{"é":"<"}`)
	equal(t, plugin.NewOutput().Changes(), plugin.Changes{})
	equal(t, plugin.NewOutput().Query("x").RemoveQuery().Changes(), plugin.Changes{Query: plugin.RemoveQuery})
	equal(t, plugin.NewOutput().Body(nil).Changes().Body != nil, true)
}

// ended is how a transform ended that did this.
func ended(host plugin.Host, transform func() ([]*plugin.Output, error)) ([]plugin.Changes, *plugin.Failure) {
	ask := func(*plugin.Event, plugin.Host) ([]*plugin.Output, error) { return transform() }
	return plugin.Run(ask, plugintest.Event("{}"), host)
}

func TestErrorsAreFailures(t *testing.T) {
	busy := plugin.Later("busy", "not now")
	for _, c := range []struct {
		err      error
		expected plugin.Failure
	}{
		{busy, *busy},
		{fmt.Errorf("wrapped: %w", busy), *busy},
		{errors.New("broken"), plugin.Failure{Code: "error", Message: "broken"}},
	} {
		_, failure := ended(&plugintest.Host{}, func() ([]*plugin.Output, error) { return nil, c.err })
		equal(t, *failure, c.expected)
	}
}

func TestWrongOutputsAreFailures(t *testing.T) {
	_, failure := ended(&plugintest.Host{}, func() ([]*plugin.Output, error) { return []*plugin.Output{nil}, nil })
	equal(t, failure.Code, "bad-output")
	noJSON := plugin.NewOutput().JSON(func() {})
	_, failure = ended(&plugintest.Host{}, func() ([]*plugin.Output, error) { return []*plugin.Output{noJSON}, nil })
	equal(t, failure.Code, "not-serialisable")
}

func TestAPanicIsAFailureAndIsLogged(t *testing.T) {
	host := &plugintest.Host{}
	_, failure := ended(host, func() ([]*plugin.Output, error) { panic("broken") })
	equal(t, *failure, plugin.Failure{Code: "uncaught-exception", Message: "panic: broken"})
	equal(t, len(host.Logs), 1)
	equal(t, host.Logs[0].Level, plugin.Error)
	equal(t, strings.HasPrefix(host.Logs[0].Message, "panic: broken\n"), true)
	kept, failure := plugin.Keep(func(*plugin.Event, plugin.Host) (bool, error) { panic("again") }, plugintest.Event(""), host)
	equal(t, kept, false)
	equal(t, failure.Code, "uncaught-exception")
}

func TestTheHostGivesWhatItWasGiven(t *testing.T) {
	host := &plugintest.Host{Config: `{"a": 1}`, Secrets: map[string]string{"token": "s3cret"}, Signing: map[string]string{"key": "k"}}
	var config struct{ A int }
	equal(t, plugin.Config(host, &config), nil)
	equal(t, config.A, 1)
	secret, _ := host.Secret("token")
	equal(t, string(secret), "s3cret")
	_, found := host.Secret("key")
	equal(t, found, false)
	equal(t, host.Now().UnixMilli(), int64(1_700_000_000_000))
	equal(t, bytes.Equal(host.RandomBytes(3), []byte{1, 2, 3}), true)
	equal(t, host.RandomNumber(), uint64(0x0405060708090a0b))
	tag, _ := host.HMAC(plugin.SHA256, "key", []byte("message"))
	equal(t, hex.EncodeToString(tag), "9831a5afefa770d5fe6c985f6c343796ca3d27651d69e24864f1f9948debfacf")
	_, found = host.HMAC(plugin.SHA1, "none", nil)
	equal(t, found, false)
	var failure *plugin.Failure
	equal(t, errors.As(plugin.Config(&plugintest.Host{Config: "{"}, &config), &failure), true)
	equal(t, failure.Code, "bad-config")
}

func TestHashesAreCompared(t *testing.T) {
	host := &plugintest.Host{Signing: map[string]string{"key": "k"}}
	tag, _ := host.HMAC(plugin.SHA1, "key", []byte("m"))
	for message, expected := range map[string]bool{"m": true, "n": false} {
		right, found := host.HMACVerify(plugin.SHA1, "key", []byte(message), tag)
		equal(t, [2]bool{right, found}, [2]bool{expected, true})
	}
	_, found := host.HMACVerify(plugin.SHA1, "none", nil, tag)
	equal(t, found, false)
}

func TestTheTableDoesWhatTheGatewaysDoes(t *testing.T) {
	host := &plugintest.Host{Table: map[string]plugintest.Entry{"a": {Value: "1"}}}
	kv := host.KV()
	value, found, err := kv.Get("a")
	equal(t, []any{string(value), found, err}, []any{"1", true, nil})
	_, found, _ = kv.Get("none")
	equal(t, found, false)
	equal(t, kv.Set("a", []byte("2"), time.Minute), nil)
	equal(t, host.Table["a"], plugintest.Entry{Value: "2", TTL: time.Minute})
	for key, expected := range map[string]bool{"a": false, "b": true} {
		added, err := kv.Add(key, []byte("3"), 0)
		equal(t, []any{added, err}, []any{expected, nil})
	}
	for _, expected := range []bool{true, false} {
		deleted, err := kv.Delete("b")
		equal(t, []any{deleted, err}, []any{expected, nil})
	}
	for _, c := range []struct {
		key     string
		by, sum int64
	}{{"a", 40, 42}, {"n", 1, 1}, {"n", -3, -2}} {
		sum, err := kv.Increment(c.key, c.by, time.Second)
		equal(t, []any{sum, err}, []any{c.sum, nil})
	}
	equal(t, host.Table, map[string]plugintest.Entry{"a": {Value: "42", TTL: time.Minute}, "n": {Value: "-2", TTL: time.Second}})
}

func TestWhatTheTableRefusesIsAnError(t *testing.T) {
	host := &plugintest.Host{Table: map[string]plugintest.Entry{"a": {Value: "1"}}, TableBytes: 130}
	kv := host.KV()
	equal(t, errors.Is(kv.Set("b", nil, 0), plugin.ErrQuotaExceeded), true)
	equal(t, kv.Set("a", []byte("2"), 0), nil)
	for _, value := range []string{"", "x", "01", "1.5", "\xff", "9223372036854775807"} {
		host := &plugintest.Host{Table: map[string]plugintest.Entry{"a": {Value: value}}}
		_, err := host.KV().Increment("a", 1, 0)
		equal(t, errors.Is(err, plugin.ErrNotANumber), true)
	}
	for _, key := range []string{"", strings.Repeat("é", 129), "a\nb"} {
		_, _, err := kv.Get(key)
		equal(t, errors.Is(err, plugin.ErrTooLarge), true)
	}
	equal(t, errors.Is(kv.Set("a", make([]byte, 65_537), 0), plugin.ErrTooLarge), true)
	_, failure := ended(host, func() ([]*plugin.Output, error) { return nil, kv.Set("b", nil, 0) })
	equal(t, *failure, *plugin.ErrQuotaExceeded)
}

func TestWhatIsAskedOfSourcesAndDestinationsEndsInAnAnswerOrAFailure(t *testing.T) {
	host := &plugintest.Host{}
	arrival, attempt := plugintest.Arrival("{}"), plugintest.Attempt("{}")
	verified, failure := plugin.CheckArrival(func(*plugin.Arrival, plugin.Host) (plugin.Verification, error) { panic("broken") }, arrival, host)
	equal(t, verified.Accepted, false)
	equal(t, failure.Code, "uncaught-exception")
	answered := func(response *plugin.Response, err error) (*plugin.Response, *plugin.Failure) {
		return plugin.AnswerArrival(func(*plugin.Arrival, plugin.Host) (*plugin.Response, error) { return response, err }, arrival, host)
	}
	response, failure := answered(plugin.JSONResponse(201, map[string]int{"a": 1}), nil)
	equal(t, []any{response.Status, string(response.Body), failure}, []any{201, `{"a":1}`, (*plugin.Failure)(nil)})
	kind, _ := response.Header("Content-Type")
	equal(t, kind, "application/json")
	response, failure = answered(nil, nil)
	equal(t, []any{response, failure}, []any{(*plugin.Response)(nil), (*plugin.Failure)(nil)})
	_, failure = answered(plugin.TextResponse(65_736, ""), nil)
	equal(t, failure.Code, "bad-output")
	_, failure = answered(plugin.JSONResponse(200, func() {}), nil)
	equal(t, failure.Code, "not-serialisable")
	_, failure = plugin.SignAttempt(func(*plugin.Attempt, plugin.Host) ([]plugin.Header, error) { return nil, errors.New("no") }, attempt, host)
	equal(t, failure.Code, "error")
	judged := func(judgement plugin.Judgement) *plugin.Failure {
		judge := func(*plugin.Attempt, *plugin.Response, plugin.Host) (plugin.Judgement, error) { return judgement, nil }
		_, failure := plugin.JudgeResponse(judge, attempt, plugin.TextResponse(200, ""), host)
		return failure
	}
	equal(t, judged(plugin.DeadLetter("gone")), (*plugin.Failure)(nil))
	equal(t, judged(plugin.RetryAfter(-time.Second)).Code, "bad-output")
	equal(t, judged(plugin.Judgement{Verdict: 9}).Code, "bad-output")
}
