package portainer

import "github.com/mosaicstack/gateway/internal/fault"

// What can go wrong between this program, Portainer and the Docker behind it. Remote words are part of a detail, cut
// to a length, and without the API key and the values of the stack's variables.
var (
	ErrURL = &fault.Fault{
		Kind: fault.Invalid, Code: "portainer_url_invalid",
		Detail: "Portainer's address cannot be used",
		Hint:   "write it like https://portainer.example.org",
	}
	ErrUnreachable = &fault.Fault{
		Kind: fault.Unavailable, Code: "portainer_unreachable",
		Detail: "Portainer does not answer",
		Hint:   "check PORTAINER_URL, and that Portainer runs there",
	}
	ErrUntrusted = &fault.Fault{
		Kind: fault.Unavailable, Code: "portainer_untrusted",
		Detail: "Portainer's certificate is not trusted",
		Hint:   "name the CA that signed it: SSL_CERT_FILE=ca.pem mosaic stack …; PORTAINER_INSECURE=1 takes any certificate, and shows the API key to whoever has one",
	}
	ErrTLS = &fault.Fault{
		Kind: fault.Unavailable, Code: "portainer_tls_failed",
		Detail: "no TLS connection to Portainer comes about",
		Hint:   "check the port in PORTAINER_URL: Portainer speaks https on 9443",
	}
	ErrTimeout = &fault.Fault{
		Kind: fault.GatewayTimeout, Code: "portainer_timeout",
		Detail: "Portainer did not answer in time",
		Hint:   "try again",
	}
	ErrConnectionLost = &fault.Fault{
		Kind: fault.Unavailable, Code: "portainer_connection_lost",
		Detail: "the connection to Portainer ended before the answer did",
		Hint:   "try again",
	}
	ErrRedirect = &fault.Fault{
		Kind: fault.BadGateway, Code: "portainer_redirect_refused",
		Detail: "Portainer's address answers with a redirect, which is not followed",
		Hint:   "give Portainer's own address as PORTAINER_URL: a redirect would carry the API key elsewhere",
	}
	ErrAnswer = &fault.Fault{
		Kind: fault.BadGateway, Code: "portainer_answer_unexpected",
		Detail: "the answer is not one of Portainer",
		Hint:   "check PORTAINER_URL; a proxy answers like this when the Portainer behind it is away",
	}
	ErrTooLarge = &fault.Fault{
		Kind: fault.BadGateway, Code: "portainer_answer_too_large",
		Detail: "Portainer's answer is larger than 16 MiB",
		Hint:   "look at it in Portainer itself",
	}
	ErrKey = &fault.Fault{
		Kind: fault.Unauthenticated, Code: "portainer_key_refused",
		Detail: "Portainer does not take the API key",
		Hint:   "make a new one in Portainer, under My account, Access tokens, and give it as PORTAINER_API_KEY_FILE",
	}
	ErrForbidden = &fault.Fault{
		Kind: fault.Forbidden, Code: "portainer_forbidden",
		Detail: "the API key's user may not do this",
		Hint:   "let an admin of Portainer give the user access to the environment and the stack",
	}
	ErrNotFound = &fault.Fault{
		Kind: fault.NotFound, Code: "portainer_not_found",
		Detail: "Portainer does not have this",
		Hint:   "see: mosaic stack list",
	}
	ErrConflict = &fault.Fault{
		Kind: fault.Conflict, Code: "portainer_conflict",
		Detail: "this cannot be done now",
		Hint:   "see: mosaic stack list",
	}
	ErrRefused = &fault.Fault{
		Kind: fault.Invalid, Code: "portainer_refused",
		Detail: "Portainer refused it",
		Hint:   "mend what it says",
	}
	ErrFailed = &fault.Fault{
		Kind: fault.BadGateway, Code: "portainer_failed",
		Detail: "Portainer could not do it",
		Hint:   "mend what it says; Portainer's own log has more. See what is there now: mosaic stack status NAME",
	}
	ErrDockerRefused = &fault.Fault{
		Kind: fault.Invalid, Code: "docker_refused",
		Detail: "Docker refused it",
		Hint:   "mend what it says",
	}
	ErrDockerFailed = &fault.Fault{
		Kind: fault.BadGateway, Code: "docker_failed",
		Detail: "Docker could not do it",
		Hint:   "look at the environment: mosaic stack endpoints",
	}
	ErrEndpointUnknown = &fault.Fault{
		Kind: fault.NotFound, Code: "endpoint_not_found",
		Detail: "Portainer has no such environment",
		Hint:   "see: mosaic stack endpoints",
	}
	ErrEndpointAmbiguous = &fault.Fault{
		Kind: fault.Invalid, Code: "endpoint_ambiguous",
		Detail: "Portainer has several environments",
		Hint:   "say which: --endpoint NAME",
	}
	ErrNotSwarm = &fault.Fault{
		Kind: fault.Conflict, Code: "endpoint_not_swarm",
		Detail: "the environment is no manager of a Swarm",
		Hint:   "docker swarm init on its host, or --endpoint with a manager's",
	}
	ErrStackUnknown = &fault.Fault{
		Kind: fault.NotFound, Code: "stack_not_found",
		Detail: "Portainer has no such stack",
		Hint:   "see: mosaic stack list",
	}
	ErrStackAmbiguous = &fault.Fault{
		Kind: fault.Invalid, Code: "stack_ambiguous",
		Detail: "there are several stacks of this name",
		Hint:   "say which: --endpoint NAME",
	}
	ErrStackExists = &fault.Fault{
		Kind: fault.Conflict, Code: "stack_exists",
		Detail: "a stack of this name is there already",
		Hint:   "change it with: mosaic stack redeploy NAME --file STACK.yml",
	}
	ErrStackKind = &fault.Fault{
		Kind: fault.Conflict, Code: "stack_not_swarm",
		Detail: "the stack is not one of a Swarm",
		Hint:   "look after it in Portainer",
	}
	ErrStackGit = &fault.Fault{
		Kind: fault.Conflict, Code: "stack_from_git",
		Detail: "the stack comes from a Git repository, and would be cut off from it",
		Hint:   "push the change, and redeploy it in Portainer or by its webhook",
	}
	ErrStackState = &fault.Fault{
		Kind: fault.Conflict, Code: "stack_state",
		Detail: "the stack is that already",
		Hint:   "see: mosaic stack status NAME",
	}
	ErrServiceUnknown = &fault.Fault{
		Kind: fault.NotFound, Code: "service_not_found",
		Detail: "the stack has no such service",
		Hint:   "see: mosaic stack status NAME",
	}
	ErrLogMalformed = &fault.Fault{
		Kind: fault.BadGateway, Code: "log_stream_malformed",
		Detail: "the log is not in the form that Docker writes",
		Hint:   "look at it in Portainer itself",
	}
	ErrLogIncomplete = &fault.Fault{
		Kind: fault.BadGateway, Code: "log_incomplete",
		Detail: "Docker could not give the whole log",
		Hint:   "lines of the nodes it names are missing: bring them back and ask again",
	}
)
