import { FaultWords } from "../form/Field";
import { faultsAt, useFaults } from "../form/faults";
import { fieldInfo } from "../form/openapi";
import { isObject, valueAt, withValue, type Body } from "../form/pointer";
import { SchemaField } from "../form/SchemaField";

const POINTERS = ["/name", "/selection/policy", "/selection/k", "/adapter/type", "/learning_rate"];

interface Props {
  schemas: Body;
  arms: unknown;
  onChange: (arms: Body[]) => void;
}

/** The ways to train that a comparison judges. */
export function Arms({ schemas, arms, onChange }: Props) {
  const list = Array.isArray(arms) ? arms.filter(isObject) : [];
  const faults = faultsAt(useFaults("/arms"), "/arms").filter(({ pointer }) => pointer === "/arms");
  const change = (index: number, arm: Body) => onChange(list.with(index, arm));
  return (
    <section className="card" aria-labelledby="arms-title">
      <h2 id="arms-title">Arms</h2>
      <FaultWords faults={faults} />
      {list.map((arm, index) => (
        <fieldset className="arm" key={index}>
          <legend>Arm {index + 1}</legend>
          {POINTERS.map((pointer) => (
            <SchemaField
              key={pointer}
              pointer={`/arms/${index}${pointer}`}
              info={{ ...fieldInfo(schemas, "ArmSpec", pointer), description: "", limits: "" }}
              value={valueAt(arm, pointer)}
              onChange={(value) => change(index, withValue(arm, pointer, value))}
            />
          ))}
          <button type="button" onClick={() => onChange(list.toSpliced(index, 1))}>
            Remove arm {index + 1}
          </button>
        </fieldset>
      ))}
      <button type="button" onClick={() => onChange([...list, newArm(list.length + 1)])}>
        Add an arm
      </button>
    </section>
  );
}

function newArm(number: number): Body {
  return { name: `arm ${number}`, selection: { policy: "random_k", k: 2 } };
}
