// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// requestTimeout bounds a request that is no watch.
const requestTimeout = time.Minute

// Types of what is sent.
const (
	applyPatch = "application/apply-patch+yaml"
	mergePatch = "application/merge-patch+json"
	jsonType   = "application/json"
)

// StatusError is an answer that is no success.
type StatusError struct {
	// Code is HTTP's: 404, 409, 422.
	Code int
	// Message is what the server says, with field and reason.
	Message string

	request string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: %d: %s", e.request, e.Code, e.Message)
}

type request struct {
	method, path string // with the query
	contentType  string // if there is a body
	body         []byte
	accept       string // "" is JSON
}

type answer struct {
	code int
	body []byte
}

// Request sends a request as the admin and returns the body of the answer. The
// path may have a query; contentType is the body's, if there is one. An answer
// that is no success is a *StatusError. Any goroutine may call it.
func (s *Server) Request(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	a, err := s.do(ctx, request{method: method, path: path, contentType: contentType, body: body})
	return a.body, err
}

func (s *Server) do(ctx context.Context, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := s.send(ctx, r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, fmt.Errorf("%s %s: read the answer: %w", r.method, r.path, err)
	}
	return answer{resp.StatusCode, body}, nil
}

// send sends a request and returns an answer that is a success.
func (s *Server) send(ctx context.Context, r request) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, s.URL+r.path, bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+s.Token)
	req.Header.Set("Accept", cmp.Or(r.accept, jsonType))
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err // it has method and URL
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &StatusError{Code: resp.StatusCode, Message: resp.Status, request: r.method + " " + r.path}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, e
	}
	var status struct{ Message string }
	if json.Unmarshal(body, &status) == nil && status.Message != "" {
		e.Message = status.Message
	}
	return nil, e
}
