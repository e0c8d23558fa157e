import type { ProblemDocument } from "../api/problem";

/** A problem in the service's own words, with the fields that are to blame. */
export function ProblemBox({ problem }: { problem: ProblemDocument }) {
  const faults = (problem.errors ?? []).filter((fault) => fault.detail !== problem.detail || fault.pointer);
  return (
    <div className="problem" role="alert">
      <strong>{problem.title}</strong>
      <p>{problem.detail}</p>
      {faults.length > 0 && (
        <ul>
          {faults.map((fault, index) => (
            <li key={index}>
              {fault.pointer && <code>{fault.pointer}</code>}
              {fault.detail !== problem.detail && ` ${fault.detail}`}
            </li>
          ))}
        </ul>
      )}
      {problem.request_id && <small>request {problem.request_id}</small>}
    </div>
  );
}
