import type { Schemas } from "../api/client";
import { CopyText } from "../ui/CopyText";
import { curlOf } from "./commands";

export function Warnings({ warnings }: { warnings: Schemas["JobWarning"][] }) {
  if (warnings.length === 0) return null;
  return (
    <section className="card warning">
      <h2>Warnings</h2>
      <ul>
        {warnings.map((warning) => (
          <li key={warning.code + warning.message}>
            {warning.message}
            {warning.remedy && <p className="muted">{warning.remedy}</p>}
          </li>
        ))}
      </ul>
    </section>
  );
}

/** What the service proposes once the job has ended, each as a request that is ready to be sent. */
export function NextSteps({ steps }: { steps: Schemas["NextStep"][] }) {
  if (steps.length === 0) return null;
  return (
    <section className="card">
      <h2>What to do next</h2>
      <ol className="steps">
        {steps.map((step) => (
          <li key={`${step.method} ${step.path} ${step.why}`}>
            {step.why}
            <details>
              <summary>
                <code>
                  {step.method} {step.path}
                </code>
              </summary>
              <CopyText what={`the request: ${step.why}`} text={curlOf(step)} />
            </details>
          </li>
        ))}
      </ol>
    </section>
  );
}
