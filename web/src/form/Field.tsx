import type { ReactNode } from "react";
import { useId } from "react";
import { textOf } from "./values";
import { useFaults, type Fault } from "./faults";

/** What an input is given, so that a screen reader tells its help and what is wrong with it. */
export interface Named {
  id: string;
  "aria-describedby": string;
  "aria-invalid": boolean;
}

interface Props {
  label: string;
  /** The field of the request, at which faults are told. */
  pointer?: string | undefined;
  help?: ReactNode;
  children: (named: Named) => ReactNode;
}

/** An input with its label, its help, and what the service has found wrong with it. */
export function Field({ label, pointer, help, children }: Props) {
  const id = useId();
  const faults = useFaults(pointer);
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {children({ id, "aria-describedby": `${id}-help`, "aria-invalid": faults.length > 0 })}
      <div id={`${id}-help`}>
        <FaultWords faults={faults} />
        {help && <small className="muted">{help}</small>}
      </div>
    </div>
  );
}

export function FaultWords({ faults }: { faults: readonly Fault[] }) {
  return faults.map((fault, index) => (
    <p className="fault-words" key={index}>
      {fault.detail}
      {fault.suggestion != null && ` Try: ${textOf(fault.suggestion)}`}
    </p>
  ));
}
