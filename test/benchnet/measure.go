// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/waggle-lb/waggle/test/benchnet/result"
)

// Metrics, in the order of the table.
var metrics = []result.Metric{
	{Name: "short connections", Unit: "1/s"},
	{Name: "CPU a short connection", Unit: "µs", LessIsBetter: true},
	{Name: "requests", Unit: "1/s"},
	{Name: "CPU a request", Unit: "µs", LessIsBetter: true},
	{Name: "latency p50", Unit: "µs", LessIsBetter: true},
	{Name: "latency p99", Unit: "µs", LessIsBetter: true},
	{Name: "TCP throughput", Unit: "Gbit/s"},
	{Name: "UDP datagrams", Unit: "1/s"},
	{Name: "packets", Unit: "1/s"},
	{Name: "CPU a packet", Unit: "µs", LessIsBetter: true},
}

// measurement gives values of one or more metrics, by name.
type measurement struct {
	name string
	// does measures a row for some seconds.
	does func(ctx context.Context, r row, seconds int) (map[string]float64, error)
	// raw says that packets are made without sockets, by the device of a client that is
	// elsewhere.
	raw bool
}

var measurements = []measurement{
	{name: "connections", does: shortConnections},
	{name: "requests", does: keptRequests},
	{name: "tcp", does: throughput},
	{name: "udp", does: datagrams},
	{name: "packets", does: packets, raw: true},
}

// Connections that wrk has open at a time: enough that client and server always have
// something to do, so few that they seldom queue.
const connections = 8

// slack is how much longer than it should a tool may take.
const slack = time.Minute

// wrkReport is a script that makes wrk print its figures as JSON.
//
//go:embed wrk.lua
var wrkReport []byte

// wrkResult is what it prints. Times are in µs.
type wrkResult struct {
	Requests, Duration, P50, P99, Errors float64

	cpu float64 // of client, server and what is between, for a request
}

func wrk(ctx context.Context, r row, seconds int, args ...string) (wrkResult, error) {
	cmd := command("wrk", append([]string{"-t", "1", "-c", fmt.Sprint(connections), "-d", fmt.Sprintf("%ds", seconds), "-s", "/dev/stdin"},
		append(args, "http://"+r.target("tcp", webPort).String()+"/")...)...)
	cmd.Stdin = bytes.NewReader(wrkReport)
	m, err := r.startMeter()
	if err != nil {
		return wrkResult{}, err
	}
	out, err := run(ctx, r.namespace(), time.Duration(seconds)*time.Second+slack, cmd)
	if err != nil {
		return wrkResult{}, err
	}
	spent, err := m.spent()
	if err != nil {
		return wrkResult{}, err
	}
	w, err := parseWrk(out)
	spent += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	w.cpu = float64(spent.Microseconds()) / w.Requests
	return w, err
}

// parseWrk reads the line of JSON at the end of wrk's own words.
func parseWrk(out []byte) (wrkResult, error) {
	var w wrkResult
	i := bytes.LastIndexByte(out, '{')
	if i < 0 {
		return w, fmt.Errorf("wrk printed no result: %q", tail(out))
	}
	if err := json.Unmarshal(out[i:], &w); err != nil {
		return w, fmt.Errorf("wrk printed %q: %w", tail(out), err)
	}
	if w.Errors != 0 || w.Requests == 0 || w.Duration == 0 {
		return w, fmt.Errorf("wrk: %.0f errors and %.0f requests: not measuring what it should", w.Errors, w.Requests)
	}
	return w, nil
}

// shortConnections connects, asks once, and is closed by the server.
func shortConnections(ctx context.Context, r row, seconds int) (map[string]float64, error) {
	w, err := wrk(ctx, r, seconds, "-H", "Connection: close")
	return map[string]float64{"short connections": w.Requests / w.Duration * 1e6, "CPU a short connection": w.cpu}, err
}

// keptRequests asks on connections that stay.
func keptRequests(ctx context.Context, r row, seconds int) (map[string]float64, error) {
	w, err := wrk(ctx, r, seconds)
	return map[string]float64{"requests": w.Requests / w.Duration * 1e6, "CPU a request": w.cpu, "latency p50": w.P50, "latency p99": w.P99}, err
}

// iperfResult is the part of iperf3's JSON that is of use here.
type iperfResult struct {
	Error string
	End   struct {
		Received struct {
			BitsPerSecond float64 `json:"bits_per_second"`
		} `json:"sum_received"`
		Sum struct {
			Seconds float64
			Packets float64
			Lost    float64 `json:"lost_packets"`
		}
	}
}

// iperf runs a client. The server takes one at a time, and a moment after each.
func iperf(ctx context.Context, r row, seconds int, protocol string, args ...string) (iperfResult, error) {
	at := r.target(protocol, bulkPort)
	deadline := time.Now().Add(10 * time.Second)
	for {
		cmd := command("iperf3", append([]string{"-c", at.Addr().String(), "-p", fmt.Sprint(bulkPort), "-t", fmt.Sprint(seconds), "-J"}, args...)...)
		out, err := run(ctx, r.namespace(), time.Duration(seconds)*time.Second+slack, cmd)
		var i iperfResult
		if err == nil {
			err = json.Unmarshal(out, &i)
		}
		if err == nil && i.Error != "" {
			err = errors.New("iperf3: " + i.Error)
		}
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return i, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func throughput(ctx context.Context, r row, seconds int) (map[string]float64, error) {
	i, err := iperf(ctx, r, seconds, "tcp")
	if err == nil && i.End.Received.BitsPerSecond == 0 {
		err = errors.New("iperf3: not one byte came")
	}
	return map[string]float64{"TCP throughput": i.End.Received.BitsPerSecond / 1e9}, err
}

// datagrams sends 64 bytes of payload at a time as fast as one sender can, and counts
// those that come.
func datagrams(ctx context.Context, r row, seconds int) (map[string]float64, error) {
	i, err := iperf(ctx, r, seconds, "udp", "-u", "-l", "64", "-b", "0")
	came := i.End.Sum.Packets - i.End.Sum.Lost
	if err == nil && (came <= 0 || i.End.Sum.Seconds <= 0) {
		err = errors.New("iperf3: not one datagram came")
	}
	return map[string]float64{"UDP datagrams": came / i.End.Sum.Seconds}, err
}
